//! What stands for a name that stands for nothing, once that was told: the
//! rest of the file is evaluated with it, so that all else that is wrong is
//! told as well. Whatever is done with it gives another; where a value is
//! needed it counts as one that is wrong already.

use allocative::Allocative;
use starlark::{
    any::ProvidesStaticType,
    eval::{Arguments, Evaluator},
    starlark_simple_value,
    values::{Heap, NoSerialize, StarlarkValue, Value, ValueLike, starlark_value},
};
use std::fmt;

#[derive(Debug, ProvidesStaticType, NoSerialize)]
pub(crate) struct Unknown;

impl Unknown {
    pub(crate) fn is(value: Value) -> bool {
        value.downcast_ref::<Unknown>().is_some()
    }
}

impl Allocative for Unknown {
    // Only profiles of the interpreter's heap ask.
    fn visit<'a, 'b: 'a>(&self, visitor: &'a mut allocative::Visitor<'b>) {
        visitor.enter_self_sized::<Unknown>().exit();
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown")
    }
}

starlark_simple_value!(Unknown);

#[starlark_value(type = "unknown")]
impl<'v> StarlarkValue<'v> for Unknown {
    fn invoke(
        &self,
        me: Value<'v>,
        _arguments: &Arguments<'v, '_>,
        _eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        Ok(me)
    }

    fn get_attr(&self, _attribute: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        Some(heap.alloc(Unknown))
    }

    fn at(&self, _index: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc(Unknown))
    }
}
