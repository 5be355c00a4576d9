//! The log's laws: what was flushed is read, in order, once; and no bytes
//! can hurt a reader.

use super::*;
use potluck_specs::job::WhenFull;
use proptest::prelude::*;
use std::{fs, path::Path};

const SMALL: LogLimits = LogLimits {
    frame_bytes: 2_000,
    segment_bytes: 1_000,
    total_bytes: u64::MAX,
    files: usize::MAX,
    age_ms: None,
    when_full: WhenFull::Block,
};

/// More than is kept of lines that wait.
const KEPT_FOR_TEST: usize = 4 << 20;

fn read_all(reader: &mut LogReader) -> Vec<Line> {
    std::iter::from_fn(|| reader.next_line().unwrap()).collect()
}

fn read_from(folder: &Path, from_seq: u64) -> Vec<Line> {
    read_all(&mut LogReader::new(folder, from_seq))
}

fn texts(lines: &[Line]) -> Vec<String> {
    lines
        .iter()
        .map(|line| String::from_utf8_lossy(&line.text).into_owned())
        .collect()
}

fn numbered(lines: &[Line]) -> bool {
    lines.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq)
}

/// Text that compresses badly, so that small segments fill.
fn noise(seed: u64, index: u64) -> String {
    let mut state = (seed << 32 ^ index).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let words = (0..4).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        format!("{state:016x}")
    });
    words.collect()
}

#[test]
fn lines_of_both_streams_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(folder.path(), LogLimits::default()).unwrap();
    writer.write(Stream::Out, b"one\ntw", 1);
    writer.write(Stream::Err, b"\xff\0oops\n", 2);
    writer.write(Stream::Out, b"o\n\nno end", 3);
    writer.finish(4).unwrap();
    let lines = read_from(folder.path(), 0);
    let line = |seq, ms, stream, partial, text: &[u8]| Line {
        seq,
        ms,
        stream,
        partial,
        text: text.into(),
    };
    assert_eq!(
        lines,
        [
            line(0, 1, Stream::Out, false, b"one"),
            line(1, 2, Stream::Err, false, b"\xff\0oops"),
            line(2, 3, Stream::Out, false, b"two"),
            line(3, 3, Stream::Out, false, b""),
            line(4, 4, Stream::Out, true, b"no end"),
        ]
    );
}

#[test]
fn a_log_is_read_from_a_time_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(folder.path(), SMALL).unwrap();
    for index in 0..200 {
        let line = format!("{index} {}\n", noise(1, index));
        writer.write(Stream::Out, line.as_bytes(), 10 * index);
    }
    writer.finish(2_000).unwrap();
    for since in [0, 5, 10, 995, 1_000, 1_990, 9_999] {
        let mut reader = LogReader::since(folder.path(), since).unwrap();
        let lines = read_all(&mut reader);
        let wanted: Vec<u64> = lines.iter().map(|line| line.ms).collect();
        let wanted: Vec<u64> = wanted.into_iter().filter(|ms| *ms >= since).collect();
        let expected: Vec<u64> = (0..200).map(|index| 10 * index).collect();
        let expected: Vec<u64> = expected.into_iter().filter(|ms| *ms >= since).collect();
        assert_eq!(wanted, expected, "since {since}");
        // A frame holds some 25 of these lines.
        let before = lines.len() - wanted.len();
        assert!(before <= 30, "{before} lines too many, since {since}");
    }
    let mut nothing = LogReader::since(&folder.path().join("none"), 7).unwrap();
    assert!(read_all(&mut nothing).is_empty());
}

#[test]
fn any_zstd_program_reads_a_segment() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(folder.path(), SMALL).unwrap();
    for index in 0..20 {
        writer.write(Stream::Out, noise(1, index).as_bytes(), 7);
        writer.write(Stream::Out, b"\n", 7);
    }
    writer.finish(8).unwrap();
    let bytes = fs::read(folder.path().join("00000000.log.zst")).unwrap();
    let text = zstd::stream::decode_all(&bytes[..]).unwrap();
    let first = format!("7 O {}\n", noise(1, 0));
    assert!(text.starts_with(first.as_bytes()));
}

#[test]
fn long_lines_are_cut_and_marked() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(folder.path(), LogLimits::default()).unwrap();
    let mut long = vec![b'x'; 3 * LINE_BYTES_MAX + 5];
    long.push(b'\n');
    for piece in long.chunks(10_000) {
        writer.write(Stream::Out, piece, 1);
    }
    writer.write(Stream::Out, &vec![b'y'; LINE_BYTES_MAX], 1);
    writer.write(Stream::Out, b"\nshort\n", 1);
    writer.finish(2).unwrap();
    let lines = read_from(folder.path(), 0);
    let shape: Vec<(usize, bool)> = lines
        .iter()
        .map(|line| (line.text.len(), line.partial))
        .collect();
    let part = (LINE_BYTES_MAX, true);
    assert_eq!(
        shape,
        [
            part,
            part,
            part,
            (5, false),
            (LINE_BYTES_MAX, false),
            (5, false)
        ]
    );
}

#[test]
fn a_follower_misses_and_repeats_nothing_over_rotation_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut reader = LogReader::new(folder.path(), 0);
    let mut seen = Vec::new();
    let mut written = Vec::new();
    for start in 0..4 {
        let mut writer = LogWriter::open(folder.path(), SMALL).unwrap();
        for index in 0..150 {
            let text = noise(start, index);
            writer.write(Stream::Out, format!("{text}\n").as_bytes(), index);
            written.push(text);
            if index % 3 == 0 {
                writer.flush(index);
                seen.extend(read_all(&mut reader));
                assert_eq!(texts(&seen), written, "start {start}, line {index}");
            }
        }
        if start % 2 == 0 {
            writer.finish(99).unwrap();
        } else {
            // The helper is killed: what was not flushed never was.
            drop(writer);
            seen.extend(read_all(&mut reader));
            written.truncate(seen.len());
        }
    }
    seen.extend(read_all(&mut reader));
    assert_eq!(texts(&seen), written);
    assert!(numbered(&seen));
    assert!(
        segment::list(folder.path()).unwrap().len() > 8,
        "it rotated"
    );
    for from in [0, 1, 57, 120, written.len() as u64 - 1] {
        assert_eq!(
            read_from(folder.path(), from),
            seen[from as usize..],
            "from {from}"
        );
    }
    assert_eq!(read_from(folder.path(), written.len() as u64), []);
    let tail = read_all(&mut LogReader::tail(folder.path(), 5).unwrap());
    assert_eq!(tail, seen[seen.len() - 5..]);
}

#[test]
fn a_torn_end_loses_nothing_that_was_flushed_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(folder.path(), LogLimits::default()).unwrap();
    let path = folder.path().join("00000000.log.zst");
    let mut flushed = Vec::new();
    for index in 0..30 {
        writer.write(Stream::Out, format!("{}\n", noise(5, index)).as_bytes(), 1);
        writer.flush(1);
        flushed.push(fs::metadata(&path).unwrap().len());
    }
    writer.finish(2).unwrap();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let lines = read_from(folder.path(), 0);
        let least = flushed.iter().filter(|end| **end <= length as u64).count();
        assert!(lines.len() >= least, "{length}: {} of {least}", lines.len());
        for (index, text) in texts(&lines).iter().enumerate() {
            assert_eq!(*text, noise(5, index as u64), "cut at {length}");
        }
        assert_eq!(reader::next_seq(folder.path()).unwrap(), lines.len() as u64);
    }
}

#[test]
fn old_segments_go_by_size_and_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        total_bytes: 5_000,
        ..SMALL
    };
    let mut writer = LogWriter::open(folder.path(), limits).unwrap();
    for index in 0..500 {
        writer.write(Stream::Out, format!("{}\n", noise(9, index)).as_bytes(), 1);
    }
    writer.finish(2).unwrap();
    let numbers = segment::list(folder.path()).unwrap();
    let bytes: u64 = numbers
        .iter()
        .map(|number| {
            fs::metadata(segment::path(folder.path(), *number))
                .unwrap()
                .len()
        })
        .sum();
    assert!(bytes < 5_000 + 3_000, "{bytes} bytes in {numbers:?}");
    let lines = read_from(folder.path(), 0);
    assert!(lines[0].seq > 100 && numbered(&lines));
    assert_eq!(lines.last().unwrap().seq, 499);

    let few = LogLimits { files: 3, ..SMALL };
    for _ in 0..10 {
        let mut writer = LogWriter::open(folder.path(), few).unwrap();
        writer.write(Stream::Out, b"crash\n", 1);
        writer.finish(2).unwrap();
    }
    assert_eq!(segment::list(folder.path()).unwrap().len(), 3);
}

#[test]
fn a_reader_hears_how_many_lines_went_before_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        total_bytes: 5_000,
        ..SMALL
    };
    let mut writer = LogWriter::open(folder.path(), limits).unwrap();
    let write = |writer: &mut LogWriter, range: std::ops::Range<u64>| {
        for index in range {
            let line = format!("{index} {}\n", noise(3, index));
            writer.write(Stream::Out, line.as_bytes(), 10);
        }
        writer.flush(10);
    };
    let mut reader = LogReader::new(folder.path(), 0);
    write(&mut writer, 0..5);
    assert_eq!(read_all(&mut reader).len(), 5);
    assert_eq!((reader.position(), reader.take_removed()), (5, 0));
    write(&mut writer, 5..1_000);
    // One who waits where he was, and one who comes back.
    for mut reader in [reader, LogReader::new(folder.path(), 5)] {
        let mut next = reader.position();
        let mut removed = 0;
        while let Some(line) = reader.next_line().unwrap() {
            let gone = reader.take_removed();
            assert_eq!(line.seq, next + gone);
            (next, removed) = (line.seq + 1, removed + gone);
        }
        assert_eq!(next, 1_000);
        assert!(removed > 0, "nothing was removed");
    }
    writer.finish(10).unwrap();
}

#[test]
fn the_log_of_a_task_has_its_part_of_the_tasks_disk() {
    const MIB: u64 = 1 << 20;
    let usual = LogLimits::default();
    let of = |bytes| usual.within(Some(bytes));
    assert_eq!(usual.within(None).total_bytes, usual.total_bytes);
    assert_eq!(of(u64::MAX).total_bytes, usual.total_bytes);
    assert_eq!(of(u64::MAX).frame_bytes, usual.frame_bytes);
    // What the job itself wants less of stays less.
    let little = LogLimits {
        total_bytes: 5_000,
        ..usual
    };
    assert_eq!(little.within(Some(64 * MIB)).total_bytes, 5_000);
    for disk in [4 * MIB, 16 * MIB, 64 * MIB, 1 << 30] {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(folder.path(), of(disk)).unwrap();
        // Twice of what it may keep, for the small ones.
        for index in 0..(disk / 64).min(200_000) {
            let line = format!("{}\n", noise(disk, index));
            writer.write(Stream::Out, line.as_bytes(), 1);
        }
        writer.finish(2).unwrap();
        let files = fs::read_dir(folder.path()).unwrap();
        let used: u64 = files.map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(used <= disk / 3, "{used} of {disk}");
        let least = if disk <= 16 * MIB { disk / 8 } else { MIB };
        assert!(used > least, "{used} of {disk}: too little to try");
    }
}

#[test]
fn a_log_with_an_age_turns_to_new_segments_and_forgets_old_ones() {
    let folder = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        age_ms: Some(80_000),
        ..LogLimits::default()
    };
    let mut writer = LogWriter::open(folder.path(), limits).unwrap();
    for second in 0..100 {
        writer.write(Stream::Out, b"tick\n", 1_000 * second);
    }
    let all = segments(folder.path()).unwrap();
    assert_eq!(all.len(), 10, "one for each eighth of the age, about");
    // The files are of today, whatever the lines say.
    let (first, last) = (all[0].written_at.0, all[9].written_at.0);
    writer.forget_old(first + 80_000);
    assert_eq!(segments(folder.path()).unwrap().len(), 10);
    writer.forget_old(last + 80_001);
    let left = segments(folder.path()).unwrap();
    assert_eq!(left.len(), 1);
    writer.finish(100_000).unwrap();
    let lines = read_from(folder.path(), 0);
    assert!(numbered(&lines));
    assert_eq!(lines.last().unwrap().seq, 99);
}

/// A log whose disk can be made to refuse, as far as a test without root's
/// rights can: the folder is moved out of the way. How it is on a full disk,
/// `tests/full_disk.rs` shows.
struct Refusing {
    parent: tempfile::TempDir,
    writer: LogWriter,
}

impl Refusing {
    fn new(when_full: WhenFull) -> Refusing {
        let parent = tempfile::tempdir().unwrap();
        let limits = LogLimits {
            when_full,
            ..LogLimits::default()
        };
        let writer = LogWriter::open(&parent.path().join("log"), limits).unwrap();
        Refusing { parent, writer }
    }

    fn refuse(&mut self, now: u64) {
        let log = self.parent.path().join("log");
        fs::rename(log, self.parent.path().join("aside")).unwrap();
        self.writer.refuse_for_test(now);
    }

    fn take_again(&self) {
        let log = self.parent.path().join("log");
        fs::rename(self.parent.path().join("aside"), log).unwrap();
    }

    fn write(&mut self, text: &str, now: u64) {
        self.writer.write(Stream::Out, text.as_bytes(), now);
    }

    fn read(&self) -> Vec<Line> {
        read_from(&self.parent.path().join("log"), 0)
    }
}

#[test]
fn what_a_disk_refuses_is_counted_and_told() {
    let mut log = Refusing::new(WhenFull::Drop);
    log.write("before\n", 0);
    log.writer.flush(0);
    log.write("gone\n", 5);
    log.refuse(10);
    assert!(!log.writer.waits(), "the task goes on");
    log.write("lost\nlost\nlost\n", 2_000);
    log.writer.retry(2_100);
    log.write("lost\n", 2_200);
    log.take_again();
    log.writer.retry(4_000);
    log.write("after\n", 4_000);
    log.writer.flush(4_000);
    assert_eq!(log.writer.refused(), None);
    let lines = log.read();
    let told = [(0, "before"), (6, "-- 5 lines lost: "), (7, "after")];
    assert_eq!(lines.len(), told.len(), "{lines:?}");
    for (line, (seq, text)) in lines.iter().zip(told) {
        assert_eq!(line.seq, seq, "numbers of lost lines are not given again");
        let found = String::from_utf8_lossy(&line.text);
        assert!(found.starts_with(text), "{found}");
    }
}

#[test]
fn a_log_that_waits_loses_nothing() {
    let mut log = Refusing::new(WhenFull::Block);
    log.write("one\n", 1);
    log.writer.flush(1);
    log.write("two\nthr", 2);
    log.refuse(3);
    assert!(log.writer.waits());
    // What had been read of the pipe before that was known.
    log.write("ee\nfour\n", 4);
    log.writer.retry(1_003);
    assert!(log.writer.waits());
    log.take_again();
    log.writer.retry(7_003);
    assert!(!log.writer.waits());
    log.write("five\n", 7_004);
    log.writer.flush(7_004);
    let lines = log.read();
    let noted = "-- the log waited 7 s: No such file or directory (os error 2) --";
    assert_eq!(
        texts(&lines),
        ["one", "two", "three", "four", noted, "five"]
    );
    assert!(numbered(&lines));
    assert_eq!(lines[1].ms, 2, "when it was taken, not when it was written");
}

#[test]
fn one_who_follows_sees_nothing_twice_when_lines_are_written_again() {
    let mut log = Refusing::new(WhenFull::Block);
    let folder = log.parent.path().join("log");
    let mut reader = LogReader::new(&folder, 0);
    let mut seen = Vec::new();
    for round in 0..20_u64 {
        for index in 0..200 {
            log.write(&format!("{}\n", noise(round, index)), round);
        }
        seen.extend(read_all(&mut reader));
        log.writer.refuse_for_test(round);
        log.writer.retry(round);
    }
    log.writer.flush(99);
    seen.extend(read_all(&mut reader));
    assert!(numbered(&seen), "none lost, none twice");
    assert_eq!(seen.len(), 20 * 201, "with a note for each round");
    assert!(numbered(&log.read()));
}

#[test]
fn a_try_that_is_refused_half_way_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        frame_bytes: 256,
        ..LogLimits::default()
    };
    let mut writer = LogWriter::open(folder.path(), limits).unwrap();
    writer.write(Stream::Out, b"before\n", 1_000);
    writer.flush(1_000);
    writer.refuse_for_test(1_000);
    for number in 0..40 {
        writer.write(Stream::Out, format!("line {number}\n").as_bytes(), 1_001);
    }
    // The disk takes some frames of what waits, and refuses the rest.
    writer.refuse_after_for_test(1);
    writer.retry(1_002);
    assert!(writer.refused().is_some());
    assert!(read_from(folder.path(), 0).len() > 5);
    writer.retry(1_003);
    writer.finish(1_004).unwrap();
    let lines = read_from(folder.path(), 0);
    assert!(numbered(&lines), "{:?}", texts(&lines));
    let mut wanted = vec!["before".to_owned()];
    wanted.extend((0..40).map(|number| format!("line {number}")));
    assert_eq!(texts(&lines)[..41], wanted);
    assert_eq!(lines.len(), 42, "and the line that tells of it");
}

#[test]
fn lines_that_never_came_keep_their_numbers_and_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(folder.path(), LogLimits::default()).unwrap();
    writer.write(Stream::Out, b"one\nhalf", 1_000);
    writer.skip(7, "the disk does not answer", 1_001);
    writer.write(Stream::Out, b"last\n", 1_002);
    writer.finish(1_003).unwrap();
    let lines = read_from(folder.path(), 0);
    let told = "-- 7 lines lost: the disk does not answer --";
    assert_eq!(texts(&lines), ["one", "half", told, "last"]);
    let numbers: Vec<u64> = lines.iter().map(|line| line.seq).collect();
    assert_eq!(numbers, [0, 1, 9, 10]);
}

#[test]
fn a_segment_that_is_in_the_way_is_stepped_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(folder.path(), LogLimits::default()).unwrap();
    for number in [0, 3] {
        std::fs::write(segment::path(folder.path(), number), b"").unwrap();
    }
    writer.write(Stream::Out, b"one\n", 1_000);
    writer.finish(1_001).unwrap();
    assert_eq!(segment::list(folder.path()).unwrap(), [0, 3, 4]);
    assert_eq!(texts(&read_from(folder.path(), 0)), ["one"]);
}

#[test]
fn the_newest_segment_stays_however_large_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        total_bytes: 1,
        ..LogLimits::default()
    };
    for now in [1_000, 2_000, 3_000] {
        let mut writer = LogWriter::open(folder.path(), limits).unwrap();
        let before = segment::list(folder.path()).unwrap();
        writer.make_room();
        let left = segment::list(folder.path()).unwrap();
        assert_eq!(left.last(), before.last(), "numbers go on from it");
        writer.write(Stream::Out, b"one\n", now);
        writer.finish(now).unwrap();
    }
    let lines = read_from(folder.path(), 0);
    assert_eq!(lines.last().unwrap().seq, 2);
}

#[test]
fn a_refusing_disk_leaves_no_files_and_takes_none() {
    for when_full in [WhenFull::Block, WhenFull::Drop] {
        let mut log = Refusing::new(when_full);
        let folder = log.parent.path().join("log");
        log.write("one\n", 1);
        log.writer.flush(1);
        for round in 0..200 {
            log.write("two\n", round);
            log.writer.refuse_for_test(round);
        }
        assert_eq!(segment::list(&folder).unwrap(), [0]);
    }
}

#[test]
fn what_waits_in_memory_is_bounded() {
    let mut log = Refusing::new(WhenFull::Block);
    log.refuse(0);
    let lines = KEPT_FOR_TEST / 10;
    for _ in 0..lines {
        log.write("x\n", 1_700_000_000_000);
    }
    let lost = log.writer.refused().unwrap().lost;
    assert!(lost > 0 && lost < lines as u64, "{lost} of {lines}");
    log.take_again();
    log.writer.retry(1_700_000_000_000);
    let read = log.read();
    assert_eq!(read.len() as u64, lines as u64 - lost + 1);
    let note = String::from_utf8_lossy(&read.last().unwrap().text).into_owned();
    assert!(note.starts_with(&format!("-- {lost} lines lost")), "{note}");
}

#[test]
fn an_end_while_the_disk_refuses_says_what_is_lost() {
    let mut log = Refusing::new(WhenFull::Block);
    log.refuse(0);
    log.write("one\ntwo\nno end", 1);
    let refused = log.writer.finish(2).unwrap_err();
    assert_eq!(refused.lost, 3);
}

#[test]
fn damage_ends_a_segment_and_not_the_log() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["one\n", "two\n", "three\n"] {
        let mut writer = LogWriter::open(folder.path(), SMALL).unwrap();
        writer.write(Stream::Out, text.as_bytes(), 1);
        writer.finish(1).unwrap();
    }
    let second = folder.path().join("00000001.log.zst");
    let mut bytes = fs::read(&second).unwrap();
    let middle = segment::HEADER_BYTES + 6;
    bytes[middle] ^= 0xff;
    fs::write(&second, bytes).unwrap();
    assert_eq!(texts(&read_from(folder.path(), 0)), ["one", "three"]);
}

fn chunk() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let byte = prop_oneof![4 => any::<u8>(), 1 => Just(b'\n')];
    (any::<bool>(), prop::collection::vec(byte, 0..300))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(chunks in prop::collection::vec(chunk(), 0..60)) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(folder.path(), SMALL).unwrap();
        let mut expected = [Vec::new(), Vec::new()];
        for (err, bytes) in &chunks {
            let stream = if *err { Stream::Err } else { Stream::Out };
            writer.write(stream, bytes, 3);
            expected[stream as usize].extend_from_slice(bytes);
        }
        writer.finish(3).unwrap();
        let lines = read_from(folder.path(), 0);
        prop_assert!(numbered(&lines));
        let mut found = [Vec::new(), Vec::new()];
        for line in lines {
            found[line.stream as usize].extend_from_slice(&line.text);
            if !line.partial {
                found[line.stream as usize].push(b'\n');
            }
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_bytes_hurt_a_reader(
        bytes in prop::collection::vec(any::<u8>(), 0..2_000),
        valid_start in any::<bool>(),
        flip in any::<prop::sample::Index>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("00000000.log.zst");
        if valid_start {
            let mut writer = LogWriter::open(folder.path(), SMALL).unwrap();
            for byte in &bytes {
                writer.write(Stream::Out, format!("{byte}\n").as_bytes(), 3);
            }
            writer.finish(3).unwrap();
            let mut damaged = fs::read(&path).unwrap_or_default();
            if !damaged.is_empty() {
                let at = flip.index(damaged.len());
                damaged[at] ^= 0x55;
                fs::write(&path, damaged).unwrap();
            }
        } else {
            fs::write(&path, &bytes).unwrap();
        }
        let lines = read_from(folder.path(), 0);
        prop_assert!(lines.len() <= bytes.len());
        reader::next_seq(folder.path()).unwrap();
        read_from(folder.path(), 7);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever reads can't tell how often the writer was another.
    #[test]
    fn a_log_that_is_handed_on_is_the_log_of_one_writer(
        chunks in proptest::collection::vec(("[a-c\n]{0,200}", any::<bool>(), any::<bool>()), 1..30),
    ) {
        let (one, several) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut whole = LogWriter::open(one.path(), SMALL).unwrap();
        let mut writer = LogWriter::open(several.path(), SMALL).unwrap();
        for (at, (text, is_out, is_handed_on)) in chunks.iter().enumerate() {
            let stream = if *is_out { Stream::Out } else { Stream::Err };
            whole.write(stream, text.as_bytes(), at as u64);
            writer.write(stream, text.as_bytes(), at as u64);
            if *is_handed_on {
                prop_assert!(writer.rest(at as u64));
                let rest = potluck_specs::codec::encode(&writer.hand_on());
                let rest = potluck_specs::codec::decode("rest", &rest, 1 << 20).unwrap();
                writer = LogWriter::go_on(several.path(), SMALL, rest);
            }
        }
        whole.finish(99).unwrap();
        writer.finish(99).unwrap();
        prop_assert_eq!(read_from(one.path(), 0), read_from(several.path(), 0));
    }
}

#[test]
fn a_log_whose_disk_refuses_is_not_handed_on_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(folder.path(), LogLimits::default()).unwrap();
    writer.write(Stream::Out, b"one\n", 1);
    writer.refuse_for_test(2);
    assert!(!writer.rest(3));
    writer.retry(4);
    assert!(writer.rest(5));
    writer.write(Stream::Out, b"two\n", 6);
    writer.finish(7).unwrap();
    let texts = texts(&read_from(folder.path(), 0));
    assert_eq!((&texts[0][..], &texts[2][..]), ("one", "two"));
}
