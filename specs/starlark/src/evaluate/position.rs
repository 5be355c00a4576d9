//! Where an evaluation is: the statement that began last. A file that meets a
//! limit is evaluated once more with this, so that the error can say where;
//! good files don't pay for it.

use crate::finding::Spot;
use starlark::{
    codemap::{FileSpan, FileSpanRef},
    eval::{BeforeStmtFunc, BeforeStmtFuncDyn, Evaluator},
};
use std::{cell::RefCell, rc::Rc};

/// What is to be done with each place.
pub(crate) type Tell = fn(Spot);

/// The statement that began last, of whatever file.
#[derive(Clone, Default)]
pub(super) struct Position(Rc<RefCell<Option<FileSpan>>>);

impl Position {
    /// Has the interpreter say where it is, from now on. This is the hook of
    /// the interpreter's debugger; there is no other that sees statements.
    pub(super) fn follow(&self, interpreter: &mut Evaluator, tell: Option<Tell>) {
        let hook = Hook {
            position: self.clone(),
            tell,
        };
        interpreter.before_stmt_for_dap(BeforeStmtFunc::from_dyn(Box::new(hook)));
    }

    pub(super) fn spot(&self) -> Option<Spot> {
        self.0.borrow().as_ref().map(Spot::new)
    }
}

struct Hook {
    position: Position,
    tell: Option<Tell>,
}

impl<'e> BeforeStmtFuncDyn<'e> for Hook {
    fn call<'v>(
        &mut self,
        span: FileSpanRef,
        _continued: bool,
        _eval: &mut Evaluator<'v, '_, 'e>,
    ) -> starlark::Result<()> {
        let mut last = self.position.0.borrow_mut();
        let same = |last: &FileSpan| last.span == span.span && last.file == *span.file;
        if last.as_ref().is_some_and(same) {
            return Ok(());
        }
        let span = span.to_file_span();
        if let Some(tell) = self.tell {
            tell(Spot::new(&span));
        }
        *last = Some(span);
        Ok(())
    }
}
