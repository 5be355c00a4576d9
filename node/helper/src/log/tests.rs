//! The log's laws: what was flushed is read, in order, once; and no bytes
//! can hurt a reader.

use super::*;
use proptest::prelude::*;
use std::{fs, path::Path};

const SMALL: LogLimits = LogLimits {
    frame_bytes: 2_000,
    segment_bytes: 1_000,
    total_bytes: u64::MAX,
    files: usize::MAX,
};

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
    writer.finish(4);
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
    writer.finish(2_000);
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
    writer.finish(8);
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
    writer.finish(2);
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
            writer.finish(99);
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
    writer.finish(2);
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
    writer.finish(2);
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
        writer.finish(2);
    }
    assert_eq!(segment::list(folder.path()).unwrap().len(), 3);
}

#[test]
fn the_log_of_a_task_has_its_part_of_the_tasks_disk() {
    const MIB: u64 = 1 << 20;
    let usual = LogLimits::default();
    let of = |bytes| LogLimits::of_disk(Some(bytes));
    assert_eq!(LogLimits::of_disk(None).total_bytes, usual.total_bytes);
    assert_eq!(of(u64::MAX).total_bytes, usual.total_bytes);
    assert_eq!(of(u64::MAX).frame_bytes, usual.frame_bytes);
    for disk in [4 * MIB, 16 * MIB, 64 * MIB, 1 << 30] {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(folder.path(), of(disk)).unwrap();
        // Twice of what it may keep, for the small ones.
        for index in 0..(disk / 64).min(200_000) {
            let line = format!("{}\n", noise(disk, index));
            writer.write(Stream::Out, line.as_bytes(), 1);
        }
        writer.finish(2);
        let files = fs::read_dir(folder.path()).unwrap();
        let used: u64 = files.map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(used <= disk / 3, "{used} of {disk}");
        let least = if disk <= 16 * MIB { disk / 8 } else { MIB };
        assert!(used > least, "{used} of {disk}: too little to try");
    }
}

#[test]
fn what_a_disk_refuses_is_counted_and_told() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("log");
    let mut writer = LogWriter::open(&folder, LogLimits::default()).unwrap();
    writer.write(Stream::Out, b"before\n", 0);
    writer.flush(0);
    // A file system that refuses, as far as a test can make one.
    let aside = parent.path().join("aside");
    fs::rename(&folder, &aside).unwrap();
    writer.fail_for_test(10);
    writer.write(Stream::Out, b"lost\nlost\nlost\n", 2_000);
    fs::rename(&aside, &folder).unwrap();
    writer.write(Stream::Out, b"too early\n", 2_500);
    writer.write(Stream::Out, b"after\n", 4_000);
    writer.finish(5_000);
    let lines = read_from(&folder, 0);
    let all = texts(&lines);
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!((all[0].as_str(), all[2].as_str()), ("before", "after"));
    assert!(all[1].starts_with("-- 5 lines lost: "), "{all:?}");
    assert!(lines[1].seq >= 5, "their numbers are not given again");
}

#[test]
fn damage_ends_a_segment_and_not_the_log() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["one\n", "two\n", "three\n"] {
        let mut writer = LogWriter::open(folder.path(), SMALL).unwrap();
        writer.write(Stream::Out, text.as_bytes(), 1);
        writer.finish(1);
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
        writer.finish(3);
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
            writer.finish(3);
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
