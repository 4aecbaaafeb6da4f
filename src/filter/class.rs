//! Owns the classes of a pattern (`[a-z]`): which bytes one holds, as git's `wildmatch.c` reads it, and how
//! the `ignore` crate is told so.

use super::rewrite::push_wide;

/// A set of bytes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Set([bool; 256]);

impl Set {
    pub(super) fn all() -> Self {
        let mut set = Self([true; 256]);
        set.0[usize::from(b'/')] = false;
        set.0[0] = false;
        set
    }

    /// Whether the crate can be told in bytes: all or none of the upper half.
    pub(super) fn is_plain(&self) -> bool {
        self.0[0x80..].iter().all(|&b| b == self.0[0x80])
    }

    /// Reads a class whose `[` lies before `at`, as `wildmatch.c` does; gives back the set and
    /// where to read on, or `None` when git's matcher gives up on the whole pattern.
    pub(super) fn parse(text: &[u8], mut at: usize, ignore_case: bool) -> Option<(Self, usize)> {
        let mut set = Self([false; 256]);
        let negated = matches!(text.get(at), Some(b'!' | b'^'));
        at += usize::from(negated);
        let mut previous = 0;
        let mut first = true;
        loop {
            let byte = *text.get(at)?;
            if byte == b']' && !first {
                break;
            }
            first = false;
            let mut next = byte;
            match byte {
                b'\\' => {
                    at += 1;
                    next = *text.get(at)?;
                    set.0[usize::from(next)] = true;
                }
                b'-' if previous != 0 && text.get(at + 1).is_some_and(|&b| b != b']') => {
                    at += 1;
                    if text[at] == b'\\' {
                        at += 1;
                    }
                    set.add_range(previous, *text.get(at)?, ignore_case);
                    next = 0;
                }
                b'[' if text.get(at + 1) == Some(&b':') => {
                    let end = at + 2 + text[at + 2..].iter().position(|&b| b == b']')?;
                    if end > at + 2 && text[end - 1] == b':' {
                        set.add_class(&text[at + 2..end - 1], ignore_case)?;
                        at = end;
                        next = 0;
                    } else {
                        set.0[usize::from(b'[')] = true;
                    }
                }
                _ => set.0[usize::from(byte)] = true,
            }
            previous = next;
            at += 1;
        }
        Some((set.finish(negated, ignore_case)?, at + 1))
    }

    fn add_range(&mut self, low: u8, high: u8, ignore_case: bool) {
        for byte in 0..=255_u8 {
            let upper = ignore_case && (low..=high).contains(&byte.to_ascii_uppercase());
            self.0[usize::from(byte)] |= (low..=high).contains(&byte) || upper;
        }
    }

    /// Adds a POSIX class, in git's own ASCII meaning (`sane_ctype`); `None` for an unknown name.
    fn add_class(&mut self, name: &[u8], ignore_case: bool) -> Option<()> {
        let member: fn(u8) -> bool = match name {
            b"alnum" => |b| b.is_ascii_alphanumeric(),
            b"alpha" => |b| b.is_ascii_alphabetic(),
            b"blank" => |b| b == b' ' || b == b'\t',
            b"cntrl" => |b| b.is_ascii_control(),
            b"digit" => |b| b.is_ascii_digit(),
            b"graph" => |b| b.is_ascii_graphic(),
            b"lower" => |b| b.is_ascii_lowercase(),
            b"print" => |b| b.is_ascii_graphic() || b == b' ',
            b"punct" => |b| b.is_ascii_punctuation(),
            b"space" => |b| matches!(b, b' ' | b'\t' | b'\n' | b'\r'),
            b"upper" if ignore_case => |b| b.is_ascii_alphabetic(),
            b"upper" => |b| b.is_ascii_uppercase(),
            b"xdigit" => |b| b.is_ascii_hexdigit(),
            _ => return None,
        };
        (0..=255_u8).filter(|&b| member(b)).for_each(|b| self.0[usize::from(b)] = true);
        Some(())
    }

    /// Negates and folds; `None` for an empty set. `/` and NUL are never members.
    fn finish(mut self, negated: bool, ignore_case: bool) -> Option<Self> {
        for member in &mut self.0 {
            *member ^= negated;
        }
        if ignore_case {
            // git lowers the byte of the name and leaves the class as it stands.
            for byte in b'A'..=b'Z' {
                self.0[usize::from(byte)] = self.0[usize::from(byte.to_ascii_lowercase())];
            }
        }
        self.0[0] = false;
        self.0[usize::from(b'/')] = false;
        self.0.contains(&true).then_some(self)
    }

    pub(super) fn write(&self, wide: bool, out: &mut Vec<u8>) {
        let ascii = |wanted: bool| (1..0x80_u8).filter(move |&b| self.0[usize::from(b)] == wanted);
        if !wide {
            return match self.0[0x80] {
                true => write_class(b"[!", ascii(false), out),
                false => write_class(b"[", ascii(true), out),
            };
        }
        out.push(b'{');
        let mut separator: &[u8] = b"";
        if ascii(true).next().is_some() {
            write_class(b"[", ascii(true), out);
            separator = b",";
        }
        if self.0[0x80..].iter().all(|&b| b) {
            out.extend_from_slice(separator);
            // Any first byte of a wide character, and the byte after it.
            out.extend_from_slice("[!\u{1}-\u{bf}]?".as_bytes());
        } else {
            for byte in (0x80..=255_u8).filter(|&b| self.0[usize::from(b)]) {
                out.extend_from_slice(separator);
                push_wide(byte, out);
                separator = b",";
            }
        }
        out.push(b'}');
    }
}

/// Writes a class of ASCII bytes, one by one: `]` only counts as itself at the start, `-` at the
/// end, and a NUL (no name holds one) keeps `!` and `^` from the start.
fn write_class(open: &[u8], bytes: impl Iterator<Item = u8> + Clone, out: &mut Vec<u8>) {
    out.extend_from_slice(open);
    out.push(if bytes.clone().any(|b| b == b']') { b']' } else { 0 });
    out.extend(bytes.clone().filter(|b| !matches!(b, b']' | b'-')));
    if bytes.clone().any(|b| b == b'-') {
        out.push(b'-');
    }
    out.push(b']');
}
