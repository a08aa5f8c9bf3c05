//! The log: lines on standard error, written by a thread of their own. Whatever becomes of them, no request waits or fails
//! for it; lines that are lost are counted.

use std::{
    io::{self, Write},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{config::LogFormat, escape};

/// Begins to log. Lines are written until the guard is dropped.
pub(crate) fn start(filter: EnvFilter, format: LogFormat) -> Guard {
    let (lines, waiting) = mpsc::sync_channel(MAX_WAITING);
    thread::spawn(move || write_all(&waiting, format, io::stderr(), &LOST));
    let writer = Writer { lines: lines.clone(), format };
    // Otherwise a line that is lost would be told on standard error, with a panic where that is what is full.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_writer(writer).init(),
        LogFormat::Json => log.json().with_writer(writer).init(),
    }
    Guard(lines)
}

/// How many lines were lost, because they could not be written or too many waited.
pub(crate) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

static LOST: AtomicU64 = AtomicU64::new(0);

/// So many lines may wait for a terminal or a pipe that does not take them.
const MAX_WAITING: usize = 8192;
/// So long the process waits at its end for lines to be written.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Writes what still waits when it is dropped.
pub(crate) struct Guard(SyncSender<Message>);

enum Message {
    Line(String),
    /// Answered once everything before it is written.
    Flush(SyncSender<()>),
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (done, is_done) = mpsc::sync_channel(1);
        if self.0.try_send(Message::Flush(done)).is_ok() {
            // Too late, or gone: nothing is left that could tell of it.
            is_done.recv_timeout(LAST_WAIT).unwrap_or_default();
        }
    }
}

struct Writer {
    lines: SyncSender<Message>,
    format: LogFormat,
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// Takes whole lines.
impl Write for &Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let safe = match self.format {
            LogFormat::Text => escape::shown(text),
            LogFormat::Json => escape::shown_json(text),
        };
        if self.lines.try_send(Message::Line(format!("{safe}\n"))).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(waiting: &Receiver<Message>, format: LogFormat, mut to: impl Write, lost: &AtomicU64) {
    let mut told = 0;
    let mut is_torn = false;
    for message in waiting {
        let line = match message {
            Message::Line(line) => line,
            Message::Flush(done) => {
                done.try_send(()).unwrap_or_default();
                continue;
            }
        };
        // What was lost is told before the next line that is not.
        let lost_now = lost.load(Ordering::Relaxed);
        let mut text = if is_torn { "\n".to_owned() } else { String::new() };
        if lost_now > told {
            text += &lost_lines(lost_now - told, format);
        }
        text += &line;
        is_torn = to.write_all(text.as_bytes()).is_err();
        if is_torn {
            lost.fetch_add(1, Ordering::Relaxed);
        } else {
            told = lost_now;
        }
    }
}

fn lost_lines(count: u64, format: LogFormat) -> String {
    match format {
        LogFormat::Text => format!("WARN cloakroom_server::log: {count} lines before this one are lost\n"),
        LogFormat::Json => format!(
            "{{\"level\":\"WARN\",\"fields\":{{\"message\":\"lines before this one are lost\",\"count\":{count}}}}}\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what comes in `takes`, each as a whole or not at all.
    struct Disk {
        takes: Vec<bool>,
        written: Vec<u8>,
    }

    impl Write for &mut Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.takes.remove(0) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_full_disk_does_not_take_are_counted_and_told_afterwards() {
        let (lines, waiting) = mpsc::sync_channel(MAX_WAITING);
        for n in 1..=5 {
            lines.send(Message::Line(format!("line {n}\n"))).unwrap();
        }
        drop(lines);
        let (mut disk, lost) =
            (Disk { takes: vec![true, false, false, true, true], written: Vec::new() }, AtomicU64::new(0));
        write_all(&waiting, LogFormat::Text, &mut disk, &lost);
        let written = String::from_utf8(disk.written).unwrap();
        assert_eq!(written, "line 1\n\nWARN cloakroom_server::log: 2 lines before this one are lost\nline 4\nline 5\n");
        assert_eq!(lost.into_inner(), 2);
    }

    #[test]
    fn a_writer_that_hangs_holds_no_request_up() {
        let (lines, _waiting) = mpsc::sync_channel(1);
        let (before, writer) = (lost(), Writer { lines, format: LogFormat::Text });
        for _ in 0..3 {
            (&writer).write_all(b"a line\n").unwrap();
        }
        assert!(lost() >= before + 2);
    }
}
