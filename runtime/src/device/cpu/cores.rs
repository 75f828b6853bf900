//! How many threads are worth starting.

use std::collections::HashSet;
use std::fs;

/// Physical cores this process may use, at least 1. Two hardware threads of one core share its vector units, so a second
/// thread on it gains nothing here.
pub fn usable_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let siblings: Option<HashSet<String>> =
        allowed_processors().map(|cpus| cpus.into_iter().map(siblings_of).collect());
    // A quota may allow less than the affinity mask; an unreadable topology counts each processor as a core.
    siblings.map_or(allowed, |cores| cores.len().clamp(1, allowed))
}

/// Processors in the affinity mask, from `/proc/self/status`: `Cpus_allowed_list: 0-3,8`.
fn allowed_processors() -> Option<Vec<usize>> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    parse_list(status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?.trim())
}

fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut out = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last.checked_sub(first)? > 1 << 16 {
            return None;
        }
        out.extend(first..=last);
    }
    Some(out)
}

/// What identifies a processor's core; the processor itself where the system does not tell.
fn siblings_of(cpu: usize) -> String {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    fs::read_to_string(path).unwrap_or_else(|_| cpu.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        assert_eq!(parse_list("0-2,5,7-7"), Some(vec![0, 1, 2, 5, 7]));
        assert_eq!(parse_list("3-1"), None);
        assert_eq!(parse_list("x"), None);
        assert_eq!(parse_list("0-99999999999"), None);
    }

    #[test]
    fn there_is_a_core() {
        let cores = usable_cores();
        assert!((1..=std::thread::available_parallelism().unwrap().get()).contains(&cores));
    }
}
