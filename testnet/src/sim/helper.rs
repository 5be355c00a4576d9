//! A model of helpers and the programs in them, which do as they are told.
//!
//! A program is told by its arguments, as any program is: how long to run and
//! with what code to exit, whether to start at all, to be deaf to signals, to
//! eat memory until it is ended for that. When all faults are over programs
//! are well behaved: they start and run.

use super::rng::Rng;
use potluck_core::host::End;
use potluck_specs::job::Resources;

/// What a program does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directive {
    /// Ends by itself after so long, in milliseconds.
    pub runs_ms: Option<u64>,
    /// With this code.
    pub code: i32,
    /// Fails to start, of a thousand times.
    pub fails: u64,
    /// Does not end when told to: it is killed after its grace.
    pub hangs: bool,
    /// Takes so many more bytes of memory each second.
    pub leaks: u64,
}

impl Directive {
    /// Some directive; most programs behave.
    pub fn drawn(rng: &mut Rng) -> Directive {
        let mut directive = Directive::default();
        match rng.below(20) {
            0 => {
                directive.runs_ms = Some(rng.between(500, 30_000));
                directive.code = rng.below(3) as i32;
            }
            1 => directive.fails = rng.between(50, 400),
            2 => directive.hangs = true,
            3 => directive.leaks = rng.between(8, 64) << 20,
            _ => {}
        }
        directive
    }

    /// As arguments of a program.
    pub fn to_args(self) -> Vec<String> {
        let mut args = Vec::new();
        if let Some(ms) = self.runs_ms {
            args.push(format!("run-ms={ms}"));
            args.push(format!("exit={}", self.code));
        }
        if self.fails > 0 {
            args.push(format!("fail={}", self.fails));
        }
        if self.hangs {
            args.push("hang=1".into());
        }
        if self.leaks > 0 {
            args.push(format!("leak={}", self.leaks));
        }
        args
    }

    /// From the arguments of a program; what it does not know it ignores.
    pub fn of(args: &[String]) -> Directive {
        let mut directive = Directive::default();
        for (key, value) in args.iter().filter_map(|arg| arg.split_once('=')) {
            let number: u64 = value.parse().unwrap_or(0);
            match key {
                "run-ms" => directive.runs_ms = Some(number),
                "exit" => directive.code = number as i32,
                "fail" => directive.fails = number,
                "hang" => directive.hangs = number > 0,
                "leak" => directive.leaks = number,
                _ => {}
            }
        }
        directive
    }

    /// How long a process runs until it ends by itself, and how it does.
    pub fn end(&self, has: Resources) -> Option<(u64, End)> {
        let exits = self.runs_ms.map(|ms| (ms, End::Code(self.code)));
        let full = has.memory_bytes.saturating_mul(1_000);
        let full = full.checked_div(self.leaks);
        let killed = full.map(|ms| (ms, End::Other("memory-limit".into())));
        match (exits, killed) {
            (Some(exits), Some(killed)) => Some(if exits.0 <= killed.0 { exits } else { killed }),
            (exits, killed) => exits.or(killed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_say_all_there_is() {
        let mut rng = Rng::new(5);
        for _ in 0..500 {
            let directive = Directive::drawn(&mut rng);
            assert_eq!(Directive::of(&directive.to_args()), directive);
        }
        assert_eq!(
            Directive::of(&["--port".into(), "x=9".into()]),
            Directive::default()
        );
    }

    #[test]
    fn what_comes_first_ends_it() {
        let has = Resources::new(1, 1 << 20);
        let leak = Directive {
            leaks: 1 << 19,
            ..Directive::default()
        };
        assert_eq!(
            leak.end(has),
            Some((2_000, End::Other("memory-limit".into())))
        );
        let short = Directive {
            runs_ms: Some(500),
            code: 3,
            ..leak
        };
        assert_eq!(short.end(has), Some((500, End::Code(3))));
        assert_eq!(Directive::default().end(has), None);
    }
}
