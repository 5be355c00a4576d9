//! A judgement of system calls as a program for the kernel's filter machine.
//!
//! Answers for the program's form alone; what is allowed is [`super::seccomp`]'s.
//! Numbers are looked up by halving, some nine comparisons for any of them: a
//! comparison for each allowed number, one after the other, made the kernel run
//! a thousand times as many when it loads a filter, since it then tries every
//! number (0.8 ms of a start; see `docs/performance.md`).

use nix::libc::{self, sock_filter};
use std::collections::BTreeMap;

const LOAD_WORD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// Where a filter finds the number, the architecture and the arguments:
/// the kernel's `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

/// This architecture in the kernel's words (`AUDIT_ARCH_*`). All of them store
/// the low half of an argument first.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: u32 = 0xc000_00f3;

/// What follows from a system call's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    /// It fails with this number.
    Fail(u16),
    /// Allowed with certain arguments; else it fails with `EPERM`.
    If(Check),
}

/// A question about the low half of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// From 0.
    pub(super) argument: u32,
    pub(super) test: Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    NoBit(u32),
    Neither(&'static [u32]),
    Any(&'static [u32]),
}

/// The program: `verdicts` by number; what has none gets `otherwise`, and from
/// `unknown_from` on all get `unknown`. Programs of another architecture are
/// killed: their numbers mean something else.
pub(super) fn program(
    verdicts: &BTreeMap<u32, Verdict>,
    otherwise: Verdict,
    unknown_from: u32,
    unknown: Verdict,
) -> Vec<sock_filter> {
    let mut program = vec![
        step(LOAD_WORD, ARCHITECTURE_AT),
        jump(JUMP_EQUAL, 1, 0, ARCHITECTURE),
        step(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        step(LOAD_WORD, NUMBER_AT),
    ];
    let known = verdicts.range(..unknown_from);
    let mut ranges = vec![(0, otherwise)];
    for (number, verdict) in known {
        put(&mut ranges, *number, *verdict);
        put(&mut ranges, number + 1, otherwise);
    }
    put(&mut ranges, unknown_from, unknown);
    program.extend(search(&ranges));
    program
}

/// From `first` on this verdict holds. Ranges come in order.
fn put(ranges: &mut Vec<(u32, Verdict)>, first: u32, verdict: Verdict) {
    // An empty range gives way to the one that begins where it does.
    ranges.pop_if(|last| last.0 == first);
    if ranges.last().is_none_or(|last| last.1 != verdict) {
        ranges.push((first, verdict));
    }
}

/// Halves the ranges until one is left.
fn search(ranges: &[(u32, Verdict)]) -> Vec<sock_filter> {
    if let [(_, verdict)] = ranges {
        return leaf(*verdict);
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let first_above = above[0].0;
    let (below, above) = (search(below), search(above));
    let mut steps = match u8::try_from(below.len()) {
        Ok(length) => vec![jump(JUMP_AT_LEAST, length, 0, first_above)],
        // A condition jumps 255 steps at most.
        Err(_) => vec![
            jump(JUMP_AT_LEAST, 0, 1, first_above),
            step(JUMP, below.len() as u32),
        ],
    };
    steps.extend(below);
    steps.extend(above);
    steps
}

fn leaf(verdict: Verdict) -> Vec<sock_filter> {
    let fail = |errno| step(RETURN, libc::SECCOMP_RET_ERRNO | u32::from(errno));
    let allow = step(RETURN, libc::SECCOMP_RET_ALLOW);
    let check = match verdict {
        Verdict::Allow => return vec![allow],
        Verdict::Fail(errno) => return vec![fail(errno)],
        Verdict::If(check) => check,
    };
    let refuse = fail(libc::EPERM as u16);
    let mut steps = vec![step(LOAD_WORD, ARGUMENTS_AT + 8 * check.argument)];
    let (values, found, not_found) = match check.test {
        Test::NoBit(bits) => {
            steps.extend([jump(JUMP_ANY_BIT, 1, 0, bits), allow, refuse]);
            return steps;
        }
        Test::Neither(values) => (values, refuse, allow),
        Test::Any(values) => (values, allow, refuse),
    };
    for (index, value) in values.iter().enumerate() {
        // Over the other comparisons and the answer if none holds.
        let over = (values.len() - index) as u8;
        steps.push(jump(JUMP_EQUAL, over, 0, *value));
    }
    steps.extend([not_found, found]);
    steps
}

fn step(code: u16, k: u32) -> sock_filter {
    jump(code, 0, 0, k)
}

fn jump(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The kernel's filter machine, as far as these programs use it.
#[cfg(test)]
pub(super) fn judge(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let word = |at: u32| match at {
        NUMBER_AT => number,
        ARCHITECTURE_AT => arch,
        at => {
            let argument = arguments[(at - ARGUMENTS_AT) as usize / 8];
            (argument >> (8 * ((at - ARGUMENTS_AT) % 8))) as u32
        }
    };
    let (mut at, mut held) = (0, 0);
    loop {
        let step = program[at];
        let branch = |condition| match condition {
            true => usize::from(step.jt),
            false => usize::from(step.jf),
        };
        at += 1;
        match step.code {
            LOAD_WORD => held = word(step.k),
            JUMP => at += step.k as usize,
            JUMP_EQUAL => at += branch(held == step.k),
            JUMP_AT_LEAST => at += branch(held >= step.k),
            0x25 => at += branch(held > step.k),
            JUMP_ANY_BIT => at += branch(held & step.k != 0),
            // `A &= k`
            0x54 => held &= step.k,
            RETURN => return step.k,
            code => panic!("step {code:#x} is not known here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: u32 = 1_000;

    fn ask(program: &[sock_filter], number: u32, first: u64) -> u32 {
        judge(program, ARCHITECTURE, number, [first, 0, 0, 0, 0, 0])
    }

    #[test]
    fn every_number_gets_its_verdict() {
        let fail = |errno: u16| libc::SECCOMP_RET_ERRNO | u32::from(errno);
        // Every third: more ranges than one jump reaches over.
        let verdicts = (0..FAR).step_by(3).map(|one| (one, Verdict::Allow));
        let verdicts = verdicts.collect();
        let program = program(&verdicts, Verdict::Fail(1), FAR, Verdict::Fail(38));
        for number in 0..FAR {
            let wanted = match number % 3 {
                0 => libc::SECCOMP_RET_ALLOW,
                _ => fail(1),
            };
            assert_eq!(ask(&program, number, 0), wanted, "{number}");
        }
        for number in [FAR, FAR + 1, 0x4000_0000, u32::MAX] {
            assert_eq!(ask(&program, number, 0), fail(38));
        }
        let other = judge(&program, ARCHITECTURE ^ 1, 0, [0; 6]);
        assert_eq!(other, libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn arguments_are_asked_for() {
        let check = |test| Verdict::If(Check { argument: 0, test });
        let verdicts = BTreeMap::from([
            (0, check(Test::NoBit(0b110))),
            (1, check(Test::Neither(&[5, 7]))),
            (2, check(Test::Any(&[5, 7, 9]))),
        ]);
        let program = program(&verdicts, Verdict::Allow, FAR, Verdict::Allow);
        let passes = |number, first| ask(&program, number, first) == libc::SECCOMP_RET_ALLOW;
        let passing = |number| -> Vec<u64> { (0..10).filter(|one| passes(number, *one)).collect() };
        assert_eq!(passing(0), [0, 1, 8, 9]);
        assert_eq!(passing(1), [0, 1, 2, 3, 4, 6, 8, 9]);
        assert_eq!(passing(2), [5, 7, 9]);
    }
}
