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

/// A field of `/proc/self/status` that is given in kB.
fn status_field(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(name))?;
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
    }
}
