//! Records in one file of the journal, as bytes. Plain: no I/O.
//!
//! A record is `SoJ1`, the length of its body, the generation of the file, a CRC-32 over the three and the body.
//! A file that is used again gets the next generation, so what is left of its former content cannot be taken
//! for new. A damaged record is stepped over: reading goes on at the next one that is whole.

use std::ops::Range;

const MAGIC: [u8; 4] = *b"SoJ1";
/// Bytes before a record's body.
const HEADER: usize = 4 + 4 + 8 + 4;
/// Longest body. An event has about 1 KiB.
pub(super) const BODY_MAX: usize = 64 << 10;

/// A record as it is written.
pub(super) fn frame(generation: u64, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend(MAGIC);
    frame.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend(generation.to_le_bytes());
    frame.extend(checksum(generation, body).to_le_bytes());
    frame.extend(body);
    frame
}

fn checksum(generation: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(body.len() as u64).to_le_bytes());
    hasher.update(&generation.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// What a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// The file's generation; 0 when there is no whole record.
    pub generation: u64,
    /// Where the bodies of its records are, in order.
    pub bodies: Vec<Range<usize>>,
    /// Where the next record goes.
    pub end: usize,
    /// Bytes before `end` that are no whole record.
    pub damaged: usize,
    /// True when something other than zeros follows `end`: a record written by half, or former content.
    pub has_rest: bool,
}

/// Reads a whole file.
pub(super) fn scan(bytes: &[u8]) -> Scan {
    let mut found: Vec<(u64, Range<usize>)> = Vec::new();
    let mut at = 0;
    while let Some((generation, body)) = next(bytes, at) {
        at = body.end;
        found.push((generation, body));
    }
    let generation = found.iter().map(|(generation, _)| *generation).max().unwrap_or(0);
    let bodies: Vec<Range<usize>> =
        found.into_iter().filter(|(of, _)| *of == generation).map(|(_, body)| body).collect();
    let end = bodies.last().map_or(0, |body| body.end);
    let whole: usize = bodies.iter().map(|body| body.len() + HEADER).sum();
    let has_rest = bytes.get(end..).is_some_and(|rest| rest.iter().any(|byte| *byte != 0));
    Scan { generation, bodies, end, damaged: end - whole, has_rest }
}

/// The first whole record that begins at `from` or later.
fn next(bytes: &[u8], mut from: usize) -> Option<(u64, Range<usize>)> {
    loop {
        let rest = bytes.get(from..)?;
        from += rest.windows(MAGIC.len()).position(|window| window == MAGIC)?;
        if let Some(found) = whole(bytes, from) {
            return Some(found);
        }
        from += 1;
    }
}

fn whole(bytes: &[u8], at: usize) -> Option<(u64, Range<usize>)> {
    let header = bytes.get(at..at + HEADER)?;
    let field = |range: Range<usize>| header.get(range);
    let length = usize::try_from(u32::from_le_bytes(field(4..8)?.try_into().ok()?)).ok()?;
    let generation = u64::from_le_bytes(field(8..16)?.try_into().ok()?);
    let expected = u32::from_le_bytes(field(16..20)?.try_into().ok()?);
    let body = at + HEADER..at + HEADER + length;
    let sound = length <= BODY_MAX && checksum(generation, bytes.get(body.clone())?) == expected;
    sound.then_some((generation, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (Vec<u8>, Vec<&'static [u8]>) {
        let bodies: Vec<&[u8]> = vec![b"one", b"", b"three SoJ1 three", b"four"];
        let mut bytes: Vec<u8> = bodies.iter().flat_map(|body| frame(7, body)).collect();
        bytes.resize(bytes.len() + 40, 0);
        (bytes, bodies)
    }

    fn read<'a>(bytes: &'a [u8], scan: &Scan) -> Vec<&'a [u8]> {
        scan.bodies.iter().map(|body| &bytes[body.clone()]).collect()
    }

    #[test]
    fn what_was_written_is_read() {
        let (bytes, bodies) = file();
        let found = scan(&bytes);
        assert_eq!(read(&bytes, &found), bodies);
        assert_eq!((found.generation, found.end, found.damaged), (7, bytes.len() - 40, 0));
        assert!(!found.has_rest);
        assert_eq!(scan(&[0; 100]), Scan::default());
        assert_eq!(scan(&[]), Scan::default());
    }

    #[test]
    fn any_flipped_bit_costs_one_record_and_is_noticed() {
        let (bytes, bodies) = file();
        for bit in 0..(bytes.len() - 40) * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let found = scan(&bytes);
            let kept = read(&bytes, &found);
            assert_eq!(kept.len(), bodies.len() - 1, "bit {bit}");
            assert!(kept.iter().all(|body| bodies.contains(body)));
            assert!(found.damaged > 0 || found.has_rest, "bit {bit}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_keeps_what_is_whole() {
        let (bytes, bodies) = file();
        let whole_up_to = |cut: usize| {
            let mut end = 0;
            bodies
                .iter()
                .take_while(|body| {
                    end += HEADER + body.len();
                    end <= cut
                })
                .count()
        };
        for cut in 0..bytes.len() {
            let found = scan(&bytes[..cut]);
            assert_eq!(found.bodies.len(), whole_up_to(cut), "cut at {cut}");
            assert_eq!(found.damaged, 0);
        }
    }

    #[test]
    fn former_content_is_not_taken_for_new() {
        let mut bytes: Vec<u8> = (0..5).flat_map(|_| frame(3, b"former")).collect();
        let new = frame(4, b"new");
        bytes[..new.len()].copy_from_slice(&new);
        let found = scan(&bytes);
        assert_eq!(read(&bytes, &found), [b"new"]);
        assert_eq!((found.generation, found.end, found.has_rest), (4, new.len(), true));
    }
}
