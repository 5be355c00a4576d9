//! The person's own terminal while a session uses it: raw, and as it was
//! before on every way out, also by a panic or a signal.

use crate::api::error::{ApiError, ErrorCode};
use potluck_helper::session::WindowSize;
use std::{io, mem::MaybeUninit, sync::OnceLock};

/// How the terminal was; kept where a panic's hook finds it.
static BEFORE: OnceLock<libc::termios> = OnceLock::new();

/// The terminal's number, as standard input.
const TERMINAL: i32 = libc::STDIN_FILENO;

/// A size for a terminal that tells none, as they had long ago.
const USUAL: WindowSize = WindowSize {
    rows: 24,
    columns: 80,
};

/// Raw as long as this lives.
pub(super) struct Raw(());

impl Raw {
    /// Makes it raw.
    pub(super) fn enter() -> Result<Raw, ApiError> {
        let fail = |error: io::Error| {
            let message = format!("the terminal can't be set: {error}");
            ApiError::new(ErrorCode::Failed, message)
        };
        let mut before = MaybeUninit::uninit();
        // SAFETY: the pointer is to a place for the structure.
        if unsafe { libc::tcgetattr(TERMINAL, before.as_mut_ptr()) } != 0 {
            return Err(fail(io::Error::last_os_error()));
        }
        // SAFETY: the call has filled it.
        let before = *BEFORE.get_or_init(|| unsafe { before.assume_init() });
        let mut raw = before;
        // SAFETY: a live structure.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        // SAFETY: a live structure.
        match unsafe { libc::tcsetattr(TERMINAL, libc::TCSANOW, &raw const raw) } {
            0 => Ok(Raw(())),
            _ => Err(fail(io::Error::last_os_error())),
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// As it was, if it was changed.
pub(super) fn restore() {
    if let Some(before) = BEFORE.get() {
        // SAFETY: a live structure. A terminal that is gone needs nothing.
        unsafe { libc::tcsetattr(TERMINAL, libc::TCSANOW, before) };
    }
}

/// Its size now.
pub(super) fn size() -> WindowSize {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: the pointer is to a place for the structure, which is valid when
    // all zero.
    let (told, size) = unsafe {
        let told = libc::ioctl(TERMINAL, libc::TIOCGWINSZ, size.as_mut_ptr());
        (told, size.assume_init())
    };
    match told == 0 && size.ws_row > 0 && size.ws_col > 0 {
        true => WindowSize {
            rows: size.ws_row,
            columns: size.ws_col,
        },
        false => USUAL,
    }
}
