//! What the operating system says about this process's memory.

use std::fs;

/// Most memory that was ever resident, in bytes; `None` where the system does not tell.
pub fn peak_bytes() -> Option<u64> {
    // The high-water mark of this program; `getrusage` also counts the program that started it.
    status_field("VmHWM:").or_else(max_resident)
}

/// Memory resident now, in bytes; `None` where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    status_field("VmRSS:")
}

/// Memory of the machine that programs may still take, in bytes; `None` where the system does not tell.
pub fn available_bytes() -> Option<u64> {
    field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// Most memory this process could ever have, in bytes: the machine's, or less where its control group is limited; `None`
/// where the system does not tell.
pub fn limit_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| field(&text, "MemTotal:"));
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(group).min()
}

/// A field of `/proc/self/status` that is given in kB.
fn status_field(name: &str) -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, name)
}

/// A line `NAME: N kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn max_resident() -> Option<u64> {
    // SAFETY: zero is a valid value of every field of this plain struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a struct of the right type.
    let failed = unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) } != 0;
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    if failed { None } else { u64::try_from(usage.ru_maxrss).ok()?.checked_mul(unit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_counts_what_was_touched_and_freed() {
        let touched = vec![1u8; 64 << 20];
        drop(std::hint::black_box(touched));
        assert!(peak_bytes().unwrap() > 64 << 20);
        assert!(max_resident().unwrap() > 64 << 20);
        assert!(resident_bytes().unwrap() > 0);
        assert!(limit_bytes().unwrap() > peak_bytes().unwrap());
    }
}
