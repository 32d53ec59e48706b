//! What processes did to a directory, read from what `strace` wrote of them: one total order of everything that changes,
//! forces or tells.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// What is traced: everything by which a program can change files with names, where it is in them, and what makes it
/// durable. What is not in this list shows, because the files would not come out as they are.
pub(crate) const CALLS: &str = "openat,write,pwrite64,writev,pwritev,lseek,ftruncate,fallocate,fsync,fdatasync,rename,\
                                renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,symlink,dup,fcntl";

/// Something that began or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A call begins: from now on it may have had its effect.
    Begin(usize, Call),
    /// The call of that number has ended: it has had it.
    End(usize),
}

/// A call that changes something, or tells something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Bytes at a place of a file.
    Write { path: PathBuf, at: u64, bytes: Vec<u8> },
    /// Another length.
    SetLen { path: PathBuf, len: u64 },
    /// At least this length.
    Extend { path: PathBuf, len: u64 },
    /// A file that was not there, or an empty one in its place.
    Create { path: PathBuf, truncate: bool },
    /// A directory.
    MakeDir { path: PathBuf },
    /// Another name, in whose place something may have been.
    Rename { from: PathBuf, to: PathBuf },
    /// One more name.
    Link { from: PathBuf, to: PathBuf },
    /// A name less.
    Remove { path: PathBuf },
    /// What was done to a file, or the names in a directory, is forced to disk once this ends.
    Sync { path: PathBuf },
    /// Bytes on standard output, or standard error.
    Said(Vec<u8>),
}

impl Call {
    /// Of a write in whose middle the process died some pages are there and the others are not: the file tells, as long as
    /// nobody has touched it since.
    fn as_far_as_it_came(&mut self) {
        let Call::Write { path, at, bytes } = self else { return };
        let Ok(file) = std::fs::read(path) else { return }; // it has another name now, or none
        let there = usize::try_from(*at).ok().and_then(|at| file.get(at..)).unwrap_or_default();
        let same = bytes.iter().zip(there).take_while(|(written, found)| written == found).count();
        bytes.truncate(same);
    }
}

/// An open file: the place in it is shared by those who have duplicated it.
#[derive(Clone, Debug, Default)]
struct Description {
    at: u64,
    append: bool,
}

/// Reads a trace; steps come in its order. `first` is the number of its first call.
pub(crate) fn read(text: &str, first: usize, sizes: &mut Sizes) -> Result<Vec<Step>> {
    let joined = join(text)?;
    let mut open: BTreeMap<i64, usize> = BTreeMap::new();
    let mut descriptions: Vec<Description> = Vec::new();
    let mut steps = Vec::new();
    for event in joined.order {
        let (number, begins) = (event.call, event.begins);
        let line = &joined.lines[number];
        // A call that never came back was on its way when the process died: whether it had its effect nobody knows.
        if line.result.is_some_and(|result| result < 0) {
            continue;
        }
        if !begins {
            if let Some(result) = line.result {
                opened(line, result, &mut open, &mut descriptions)?;
            }
            steps.push(Step::End(first + number));
            continue;
        }
        let call = line.call(&open, &mut descriptions, sizes).with_context(|| format!("{}(…)", line.name))?;
        if let Some(mut call) = call {
            if line.result.is_none() {
                call.as_far_as_it_came();
            }
            sizes.note(&call);
            steps.push(Step::Begin(first + number, call));
        }
    }
    Ok(steps)
}

/// How long each file is: who appends needs it.
#[derive(Debug, Default)]
pub(crate) struct Sizes(BTreeMap<PathBuf, u64>);

impl Sizes {
    fn of(&self, path: &Path) -> u64 {
        self.0.get(path).copied().unwrap_or_default()
    }

    fn note(&mut self, call: &Call) {
        match call {
            Call::Write { path, at, bytes } => {
                let size = self.0.entry(path.clone()).or_default();
                *size = (*size).max(at + bytes.len() as u64);
            }
            Call::SetLen { path, len } => drop(self.0.insert(path.clone(), *len)),
            Call::Extend { path, len } => {
                let size = self.0.entry(path.clone()).or_default();
                *size = (*size).max(*len);
            }
            Call::Create { path, truncate: true } => drop(self.0.insert(path.clone(), 0)),
            Call::Rename { from, to } => {
                let size = self.0.remove(from).unwrap_or_default();
                self.0.insert(to.clone(), size);
            }
            Call::Link { from, to } => drop(self.0.insert(to.clone(), self.of(from))),
            Call::Remove { path } => drop(self.0.remove(path)),
            Call::Create { .. } | Call::MakeDir { .. } | Call::Sync { .. } | Call::Said(_) => {}
        }
    }
}

/// A call's line, its two halves joined.
struct Line {
    name: String,
    arguments: String,
    result: Option<i64>,
}

/// Where a call begins or ends.
struct Event {
    call: usize,
    begins: bool,
}

struct Joined {
    lines: Vec<Line>,
    order: Vec<Event>,
}

const UNFINISHED: &str = " <unfinished ...>";

fn join(text: &str) -> Result<Joined> {
    let (mut lines, mut order) = (Vec::<Line>::new(), Vec::new());
    let mut waiting: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines() {
        let (process, rest) =
            line.split_once(char::is_whitespace).context("a line of strace begins with a process")?;
        let rest = timed(rest.trim_start()).1;
        if rest.starts_with("+++") || rest.starts_with("---") || rest.starts_with("???") {
            continue;
        }
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let call = waiting.remove(process).context("a call is resumed that never began")?;
            let (_, rest) = resumed.split_once(" resumed>").context("a resumed call")?;
            lines[call].result = result_of(rest);
            order.push(Event { call, begins: false });
            continue;
        }
        let (name, arguments) = rest.split_once('(').with_context(|| format!("no call: {rest}"))?;
        let (call, name) = (lines.len(), name.to_owned());
        order.push(Event { call, begins: true });
        if let Some(arguments) = arguments.strip_suffix(UNFINISHED) {
            waiting.insert(process, call);
            lines.push(Line { name, arguments: arguments.to_owned(), result: None });
        } else {
            // Short calls are padded up to their result.
            let before =
                arguments.rsplit_once(" = ").and_then(|(before, _)| before.trim_end().strip_suffix(')'));
            let arguments = before.with_context(|| format!("half a call: {name}"))?.to_owned();
            lines.push(Line { name, arguments, result: result_of(rest) });
            order.push(Event { call, begins: false });
        }
    }
    Ok(Joined { lines, order })
}

/// What `strace -ttt` puts before a call: microseconds since the Unix epoch; and the call.
fn timed(rest: &str) -> (Option<u64>, &str) {
    let time = || {
        let (time, rest) = rest.split_once(' ')?;
        let (seconds, micros) = time.split_once('.')?;
        Some((seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?, rest.trim_start()))
    };
    time().map_or((None, rest), |(time, rest)| (Some(time), rest))
}

/// A trace, and what others were told meanwhile, each with the moment at which they had heard it, as if the traced process
/// had said it there. What the trace has behind that moment began later.
pub(crate) fn with_said(text: &str, mut said: Vec<(u64, String)>) -> String {
    said.sort();
    let (mut said, mut out) = (said.into_iter().peekable(), String::with_capacity(text.len()));
    let mut say = |out: &mut String, before: Option<u64>| {
        while let Some((_, what)) = said.next_if(|(at, _)| before.is_none_or(|before| *at < before)) {
            let hex: String = what.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
            out.push_str(&format!("0 write(1<{hex}>, \"{hex}\", {0}) = {0}\n", what.len()));
        }
    };
    for line in text.lines() {
        let rest = line.split_once(char::is_whitespace).map_or(line, |(_, rest)| rest.trim_start());
        if let (Some(at), _) = timed(rest) {
            say(&mut out, Some(at));
        }
        out.push_str(line);
        out.push('\n');
    }
    say(&mut out, None);
    out
}

/// The number behind the last ` = `; `?` where the process died.
fn result_of(text: &str) -> Option<i64> {
    let (_, result) = text.rsplit_once(" = ")?;
    let digits = result.split(|c: char| !c.is_ascii_digit() && c != '-').next()?;
    digits.parse().ok()
}

/// Remembers what a call has opened.
fn opened(
    line: &Line,
    result: i64,
    open: &mut BTreeMap<i64, usize>,
    descriptions: &mut Vec<Description>,
) -> Result<()> {
    match line.name.as_str() {
        "openat" => {
            descriptions.push(Description { at: 0, append: line.arguments.contains("O_APPEND") });
            open.insert(result, descriptions.len() - 1);
        }
        "dup" => share(line, result, open)?,
        "fcntl" if line.arguments.contains("F_DUPFD") => share(line, result, open)?,
        "lseek" => {
            if let Some(description) = open.get(&line.descriptor()?) {
                descriptions[*description].at = u64::try_from(result)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn share(line: &Line, result: i64, open: &mut BTreeMap<i64, usize>) -> Result<()> {
    if let Some(description) = open.get(&line.descriptor()?).copied() {
        open.insert(result, description);
    }
    Ok(())
}

impl Line {
    /// What it changes; `None` when nothing that has a name.
    fn call(
        &self,
        open: &BTreeMap<i64, usize>,
        descriptions: &mut [Description],
        sizes: &Sizes,
    ) -> Result<Option<Call>> {
        let call = match self.name.as_str() {
            "write" | "writev" => {
                let (descriptor, path, bytes) = (self.descriptor()?, self.path()?, self.written()?);
                if matches!(descriptor, 1 | 2) {
                    return Ok(Some(Call::Said(bytes)));
                }
                let Some(description) = open.get(&descriptor) else { return Ok(None) };
                let description = &mut descriptions[*description];
                let at = if description.append { sizes.of(&path) } else { description.at };
                description.at = at + bytes.len() as u64;
                Call::Write { path, at, bytes }
            }
            "pwrite64" | "pwritev" => {
                Call::Write { path: self.path()?, at: self.last()?, bytes: self.written()? }
            }
            "ftruncate" => Call::SetLen { path: self.path()?, len: self.last()? },
            "fallocate" => {
                let (before, len) = self.arguments.rsplit_once(", ").context("a length")?;
                let (mode, at) = before.rsplit_once(", ").context("a place")?;
                ensure!(mode.ends_with(", 0"), "fallocate with a mode is not understood: {}", self.arguments);
                Call::Extend { path: self.path()?, len: at.parse::<u64>()? + len.parse::<u64>()? }
            }
            "openat" => {
                let truncate = self.arguments.contains("O_TRUNC");
                if !truncate && !self.arguments.contains("O_CREAT") {
                    return Ok(None);
                }
                Call::Create { path: self.named()?.remove(0), truncate }
            }
            "fsync" | "fdatasync" => Call::Sync { path: self.path()? },
            "mkdir" | "mkdirat" => Call::MakeDir { path: self.named()?.remove(0) },
            "unlink" | "unlinkat" | "rmdir" => Call::Remove { path: self.named()?.remove(0) },
            "rename" | "renameat" | "renameat2" => {
                let [from, to] = self.two_names()?;
                Call::Rename { from, to }
            }
            "link" | "linkat" => {
                let [from, to] = self.two_names()?;
                Call::Link { from, to }
            }
            "lseek" | "dup" | "fcntl" => return Ok(None),
            other => bail!("{other} is not understood: teach the power cut what it does"),
        };
        Ok(Some(call))
    }

    /// The number that the arguments begin with.
    fn descriptor(&self) -> Result<i64> {
        let digits = self.arguments.split(|c: char| !c.is_ascii_digit()).next().context("a descriptor")?;
        digits.parse().with_context(|| format!("no descriptor: {}", self.arguments))
    }

    /// The last of the arguments, which is a number.
    fn last(&self) -> Result<u64> {
        let (_, last) = self.arguments.rsplit_once(", ").context("arguments")?;
        last.parse().with_context(|| format!("no number: {last}"))
    }

    /// Where the first descriptor leads, as strace says in angle brackets.
    fn path(&self) -> Result<PathBuf> {
        let (_, rest) = self.arguments.split_once('<').context("a path")?;
        let (path, _) = rest.split_once('>').context("a path")?;
        // A pipe or a socket is told in words: it lies outside, as it should.
        Ok(bytes_of(path)
            .map_or_else(|_| PathBuf::from(path), |path| PathBuf::from(OsString::from_vec(path))))
    }

    /// The names among the arguments, each from where its directory descriptor leads.
    fn named(&self) -> Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        let mut rest = self.arguments.as_str();
        while let Some((before, behind)) = rest.split_once('"') {
            let (name, more) = behind.split_once('"').context("a name ends")?;
            let name = PathBuf::from(OsString::from_vec(bytes_of(name)?));
            let within =
                before.rsplit_once('<').and_then(|(_, path)| path.split_once('>')).map(|(path, _)| path);
            let within = within.map(bytes_of).transpose()?.unwrap_or_default();
            let name = PathBuf::from(OsString::from_vec(within)).join(name);
            ensure!(name.is_absolute(), "nobody knows where {} begins", name.display());
            names.push(name);
            rest = more;
        }
        ensure!(!names.is_empty(), "no name: {}", self.arguments);
        Ok(names)
    }

    fn two_names(&self) -> Result<[PathBuf; 2]> {
        let names = <[PathBuf; 2]>::try_from(self.named()?);
        names.map_err(|names| anyhow::anyhow!("two names, not {}", names.len()))
    }

    /// What is written, as far as it was.
    fn written(&self) -> Result<Vec<u8>> {
        let (mut bytes, mut rest) = (Vec::new(), self.arguments.as_str());
        while let Some((_, behind)) = rest.split_once('"') {
            let (part, more) = behind.split_once('"').context("bytes end")?;
            ensure!(!more.starts_with("..."), "strace has cut what was written: raise its -s");
            bytes.extend(bytes_of(part)?);
            rest = more;
        }
        if let Some(len) = self.result {
            bytes.truncate(usize::try_from(len)?);
        }
        Ok(bytes)
    }
}

/// Bytes as strace's -xx writes them: `\x2f` each.
fn bytes_of(text: &str) -> Result<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |four: &[u8]| match four {
        [b'\\', b'x', high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
        _ => None,
    };
    text.as_bytes()
        .chunks(4)
        .map(byte)
        .collect::<Option<_>>()
        .with_context(|| format!("no bytes: {text:.40}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    fn of(lines: &[String]) -> Vec<Step> {
        read(&lines.join("\n"), 0, &mut Sizes::default()).unwrap()
    }

    #[test]
    fn a_write_goes_where_its_descriptor_stands_also_when_another_thread_is_between() {
        let (file, cwd) = (hex("/d/a"), hex("/"));
        let steps = of(&[
            format!("7 openat(AT_FDCWD<{cwd}>, \"{file}\", O_WRONLY|O_CREAT|O_CLOEXEC, 0666) = 3<{file}>"),
            format!("7 write(3<{file}>, \"{}\", 2) = 2", hex("ab")),
            format!("7 write(3<{file}>, \"{}\", 2 <unfinished ...>", hex("cd")),
            format!("8 write(1<{}>, \"{}\", 1) = 1", hex("pipe:[1]"), hex("x")),
            "7 <... write resumed>) = 1".into(),
            format!("7 fdatasync(3<{file}>) = 0"),
            "7 +++ exited with 0 +++".into(),
        ]);
        let path = PathBuf::from("/d/a");
        let write = |at, bytes: &[u8]| Call::Write { path: path.clone(), at, bytes: bytes.to_vec() };
        assert_eq!(
            steps,
            [
                Step::Begin(0, Call::Create { path: path.clone(), truncate: false }),
                Step::End(0),
                Step::Begin(1, write(0, b"ab")),
                Step::End(1),
                Step::Begin(2, write(2, b"c")),
                Step::Begin(3, Call::Said(b"x".to_vec())),
                Step::End(3),
                Step::End(2),
                Step::Begin(4, Call::Sync { path: path.clone() }),
                Step::End(4),
            ]
        );
    }

    #[test]
    fn a_write_in_whose_middle_the_process_died_came_as_far_as_its_file_shows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let (file, cwd) = (hex(path.to_str().unwrap()), hex("/"));
        let steps = of(&[
            format!("7 openat(AT_FDCWD<{cwd}>, \"{file}\", O_WRONLY|O_CREAT|O_CLOEXEC, 0666) = 3<{file}>"),
            format!("7 write(3<{file}>, \"{}\", 1) = 1", hex("a")),
            format!("7 write(3<{file}>, \"{}\", 4 <unfinished ...>", hex("bcde")),
            "7 <... write resumed>) = ?".into(),
        ]);
        let written = Call::Write { path, at: 1, bytes: b"bc".to_vec() };
        assert!(steps.contains(&Step::Begin(2, written)), "{steps:?}");
    }

    #[test]
    fn what_a_caller_has_heard_stands_before_all_that_began_later() {
        let file = hex("/d/a");
        let line = |at: &str| format!("7 {at} fdatasync(3<{file}>) = 0\n");
        let text = line("10.000001") + &line("10.000005") + &line("11.000000");
        let told = with_said(&text, vec![(10_000_004, "ack 1".into()), (12_000_000, "ack 2".into())]);
        let steps = read(&told, 0, &mut Sizes::default()).unwrap();
        let said = |call: &str| Call::Said(call.as_bytes().to_vec());
        let calls: Vec<&Call> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Begin(_, call) => Some(call),
                Step::End(_) => None,
            })
            .collect();
        let sync = Call::Sync { path: "/d/a".into() };
        assert_eq!(calls, [&sync, &said("ack 1"), &sync, &sync, &said("ack 2")]);
    }

    #[test]
    fn names_are_taken_from_where_their_directory_leads_and_failed_calls_change_nothing() {
        let (dir, name) = (hex("/d"), hex("a"));
        let steps = of(&[
            format!("7 unlinkat(5<{dir}>, \"{name}\", 0) = -1 ENOENT (No such file or directory)"),
            format!("7 unlinkat(5<{dir}>, \"{name}\", 0)   = 0"),
            format!("7 rename(\"{}\", \"{}\") = 0", hex("/d/b"), hex("/d/c")),
        ]);
        assert_eq!(
            steps,
            [
                Step::Begin(1, Call::Remove { path: "/d/a".into() }),
                Step::End(1),
                Step::Begin(2, Call::Rename { from: "/d/b".into(), to: "/d/c".into() }),
                Step::End(2),
            ]
        );
    }
}
