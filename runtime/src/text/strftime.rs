//! Dates in prompts: `strftime` for the `strftime_now` function of chat templates.
//!
//! Time is UTC, so that a prompt does not depend on the server's time zone (Hugging Face uses local time). Only
//! formatting with English names is needed, which is less code than a date library.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Formats `time` in UTC by `pattern`, with the directives of C's `strftime` in the C locale, and `%-d` for numbers without
/// padding. An unknown directive is returned as the error.
pub(super) fn strftime(time: SystemTime, pattern: &str) -> Result<String, String> {
    let date = Date::of(time);
    let mut out = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let padded = directive != Some('-');
        if !padded {
            directive = chars.next();
        }
        let known = directive.is_some_and(|d| date.write(d, padded, &mut out));
        if !known {
            let dash = if padded { "" } else { "-" };
            return Err(format!("%{dash}{}", directive.map(String::from).unwrap_or_default()));
        }
    }
    Ok(out)
}

struct Date {
    year: i64,
    /// 1 to 12.
    month: u32,
    /// 1 to 31.
    day: u32,
    /// 1 to 366.
    day_of_year: u32,
    /// 0 is Sunday.
    weekday: usize,
    hour: u32,
    minute: u32,
    second: u32,
}

impl Date {
    fn of(time: SystemTime) -> Self {
        // Before 1970 there are no prompts; a clock set that wrong reads as the epoch.
        let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        let (days, clock) = (seconds / 86_400, (seconds % 86_400) as u32);
        let (year, month, day) = civil_from_days(days);
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        Self {
            year,
            month,
            day,
            day_of_year: lengths[..month as usize - 1].iter().sum::<u32>() + day,
            weekday: ((days + 4) % 7) as usize,
            hour: clock / 3600,
            minute: clock / 60 % 60,
            second: clock % 60,
        }
    }

    /// Appends one directive; false if it is unknown.
    fn write(&self, directive: char, padded: bool, out: &mut String) -> bool {
        let mut number = |value: u32, width: usize| {
            let width = if padded { width } else { 1 };
            let _ = write!(out, "{value:0width$}");
        };
        match directive {
            'd' => number(self.day, 2),
            'm' => number(self.month, 2),
            'y' => number((self.year % 100) as u32, 2),
            'j' => number(self.day_of_year, 3),
            'H' => number(self.hour, 2),
            'I' => number((self.hour + 11) % 12 + 1, 2),
            'M' => number(self.minute, 2),
            'S' => number(self.second, 2),
            'w' => number(self.weekday as u32, 1),
            'Y' => out.push_str(&self.year.to_string()),
            'B' => out.push_str(MONTHS[self.month as usize - 1]),
            'b' | 'h' => out.push_str(&MONTHS[self.month as usize - 1][..3]),
            'A' => out.push_str(WEEKDAYS[self.weekday]),
            'a' => out.push_str(&WEEKDAYS[self.weekday][..3]),
            'p' => out.push_str(if self.hour < 12 { "AM" } else { "PM" }),
            'Z' => out.push_str("UTC"),
            'z' => out.push_str("+0000"),
            'n' => out.push('\n'),
            't' => out.push('\t'),
            '%' => out.push('%'),
            'F' => return self.write_all("Y-m-d", out),
            'T' => return self.write_all("H:M:S", out),
            'R' => return self.write_all("H:M", out),
            'D' => return self.write_all("m/d/y", out),
            _ => return false,
        }
        true
    }

    /// Appends a pattern in which every letter is a directive.
    fn write_all(&self, pattern: &str, out: &mut String) -> bool {
        pattern.chars().all(|c| match c.is_ascii_alphabetic() {
            true => self.write(c, true, out),
            false => {
                out.push(c);
                true
            }
        })
    }
}

/// Year, month and day of a number of days since 1970-01-01 (not negative).
///
/// Method: H. Hinnant, "chrono-compatible low-level date algorithms": years begin in March, so that the leap day is last.
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64, pattern: &str) -> String {
        strftime(UNIX_EPOCH + Duration::from_secs(seconds), pattern).expect("known directives")
    }

    /// Expected values are CPython's `datetime.fromtimestamp(s, timezone.utc).strftime(...)`.
    #[test]
    fn agrees_with_python() {
        assert_eq!(at(0, "%d %b %Y %A %H:%M:%S %j %w"), "01 Jan 1970 Thursday 00:00:00 001 4");
        assert_eq!(at(951_782_400, "%Y-%m-%d %a %j"), "2000-02-29 Tue 060");
        assert_eq!(at(1_735_689_599, "%F %T %p %I %y %B"), "2024-12-31 23:59:59 PM 11 24 December");
        assert_eq!(at(1_709_251_200, "%-d/%-m %R %D %%"), "1/3 00:00 03/01/24 %");
        assert_eq!(at(4_102_444_800, "%d %B %Y"), "01 January 2100");
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut last = civil_from_days(0);
        for days in 1..146_098 {
            let (year, month, day) = civil_from_days(days);
            let next_day = (year, month) == (last.0, last.1) && day == last.2 + 1;
            let next_month = day == 1 && last.2 >= 28 && (year, month) == (last.0, last.1 + 1);
            let next_year = (day, month) == (1, 1) && (last.1, last.2) == (12, 31) && year == last.0 + 1;
            assert!(next_day || next_month || next_year, "{last:?} then {:?}", (year, month, day));
            last = (year, month, day);
        }
        assert_eq!(last, (2370, 1, 1));
    }

    #[test]
    fn unknown_directives_are_named() {
        assert_eq!(strftime(UNIX_EPOCH, "%d %Q"), Err("%Q".to_owned()));
        assert_eq!(strftime(UNIX_EPOCH, "%-"), Err("%-".to_owned()));
        assert_eq!(strftime(UNIX_EPOCH, "%"), Err("%".to_owned()));
    }
}
