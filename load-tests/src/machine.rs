//! What a figure was taken on.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The machine, its disk where `dir` lies, its system.
pub(crate) fn facts(dir: &Path) -> BTreeMap<String, String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).unwrap_or_default()
    };
    let kib: u64 =
        field(&read("/proc/meminfo"), "MemTotal").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let os = read("/etc/os-release");
    let os = os
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("")
        .trim_matches('"')
        .to_owned();
    let facts = [
        ("cpu", field(&read("/proc/cpuinfo"), "model name")),
        ("cores", std::thread::available_parallelism().map_or(0, usize::from).to_string()),
        ("memory", format!("{:.1} GiB", kib as f64 / (1 << 20) as f64)),
        ("disk", disk(&read("/proc/mounts"), &dir.canonicalize().unwrap_or_default())),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("system", os),
    ];
    facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Behind `--`, a command whose process ends when this one does, however that is.
pub(crate) fn ends_with_us() -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=KILL");
    command
}

/// Device and file system of the mount that holds a directory.
fn disk(mounts: &str, dir: &Path) -> String {
    let rows = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let holds = rows.filter(|row| row.len() > 3 && dir.starts_with(row[1]));
    let nearest = holds.max_by_key(|row| row[1].len());
    nearest.map_or_else(String::new, |row| format!("{} ({}, {})", row[0], row[2], row[3]))
}

/// The commit, and whether something was changed since, other than the figures.
pub(crate) fn commit() -> String {
    let git = |words: &[&str]| {
        let out = Command::new("git").args(["-c", "safe.directory=*"]).args(words).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".into() };
    if crate::kept::is_changed(Path::new(".")) { format!("{commit} and changes") } else { commit }
}

/// The profile that this was built in: the name of the directory that cargo put it into.
pub(crate) fn profile() -> String {
    let exe = std::env::current_exe().unwrap_or_default();
    let dir = exe.parent().and_then(Path::file_name).unwrap_or_default();
    dir.to_string_lossy().into_owned()
}

/// Today, UTC.
pub(crate) fn today() -> String {
    time::OffsetDateTime::now_utc().date().to_string()
}

/// Bytes of memory that a process has resident; 0 when it is gone.
pub(crate) fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) * 1024
}

/// Processor time of processes, in ticks of a hundredth of a second.
pub(crate) fn ticks(processes: &[u32]) -> u64 {
    let of = |process: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // Behind the name, which may hold blanks: state, then utime and stime as the 12th and 13th from there.
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).to_owned();
        rest.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>()
    };
    processes.iter().map(of).sum()
}

/// Watches how many cores others use while ours run.
pub(crate) struct Others {
    ours: Vec<u32>,
    began: Instant,
    busy: u64,
    own: u64,
}

impl Others {
    pub(crate) fn watch(ours: Vec<u32>) -> Others {
        let (busy, own) = (busy(), ticks(&ours));
        Others { ours, began: Instant::now(), busy, own }
    }

    /// Cores on the average since.
    pub(crate) fn cores(&self) -> f64 {
        let all = busy().saturating_sub(self.busy);
        let others = all.saturating_sub(ticks(&self.ours).saturating_sub(self.own));
        others as f64 / 100.0 / self.began.elapsed().as_secs_f64().max(0.01)
    }
}

/// Ticks in which the machine's cores worked for somebody, or were taken from a virtual one by its host.
fn busy() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user, nice, system, (idle, iowait), irq, softirq, steal; guests are in user and nice already.
    [0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_of_a_directory_is_that_of_its_nearest_mount() {
        let mounts = "/dev/a / ext4 rw,relatime 0 0\nproc /proc proc rw 0 0\n/dev/b /data xfs rw 0 0\n";
        assert_eq!(disk(mounts, Path::new("/data/x")), "/dev/b (xfs, rw)");
        assert_eq!(disk(mounts, Path::new("/database")), "/dev/a (ext4, rw,relatime)");
    }

    #[test]
    fn this_process_has_memory_and_uses_time() {
        let own = std::process::id();
        assert!(resident(own) > 1 << 20);
        let (began, before) = (Instant::now(), ticks(&[own]));
        while ticks(&[own]) < before + 5 {
            assert!(began.elapsed().as_secs() < 30, "half a minute of work is more than five ticks");
        }
        assert_eq!(resident(u32::MAX), 0);
    }
}
