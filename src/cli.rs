//! The command line: what can be typed, nothing of what it does.

use std::convert::Infallible;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::admin::Address;
use crate::bpf::CapturePath;

/// Record the HTTP traffic of this machine from beside it: no proxy, no code change, no restart.
///
/// Captured data goes to stdout, the agent's own log to stderr. Run as root.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: Run,
    #[command(flatten)]
    pub log: Log,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Capture (the default)
    Run(Run),
    /// Check a configuration and say everything that is wrong with it
    Validate {
        /// The file; `-` for standard input
        file: PathBuf,
    },
    /// Run the configuration on a recording instead of live traffic; needs no root
    Replay {
        /// A file made with `--record`
        file: PathBuf,
        /// Configuration file [default: summaries of everything]
        #[arg(long, value_name = "FILE", env = "SIDETAP_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Have a running sidetap read its configuration again, and say what became of it
    Reload {
        #[command(flatten)]
        listen: Listen,
    },
    /// Say whether this machine can capture, and what to do where it cannot
    Check {
        /// Also list every BPF program, on every capture path this kernel has, with what it costs the kernel's verifier
        #[arg(long)]
        programs: bool,
    },
}

#[derive(Debug, Args)]
pub struct Run {
    /// Configuration file; without one, summaries of everything go to stdout
    #[arg(long, value_name = "FILE", env = "SIDETAP_CONFIG")]
    pub config: Option<PathBuf>,
    /// Reload the configuration whenever its file changes
    #[arg(long, requires = "config")]
    pub watch: bool,
    #[command(flatten)]
    pub listen: Listen,
    /// How socket I/O is seen [default: the better one this kernel has]
    #[arg(long, value_name = "PATH")]
    pub capture_path: Option<CapturePath>,
    /// Also write the raw events to this file, for `replay`: it holds traffic in the clear
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Record the secrets of TLS connections, too: whoever has the file can read these connections
    #[arg(long, requires = "record")]
    pub record_secrets: bool,
    /// Also write the secrets of TLS connections that are opened to this file, as Wireshark reads them: whoever has it can
    /// read these connections
    #[arg(long, value_name = "FILE")]
    pub keylog: Option<PathBuf>,
    /// Keep no secrets of open TLS connections for the next start, and drop what an earlier one has kept
    #[arg(long)]
    pub forget_secrets: bool,
    /// Event buffer of each CPU, in KiB, a power of two
    #[arg(long, value_name = "KIB", default_value_t = 32768, value_parser = power_of_two)]
    pub buffer_size: usize,
    /// Ceiling of captured data held in memory, in MiB: above it the oldest bodies are dropped, and say so
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub memory_limit: u32,
    /// Socket of docker, for names of containers; empty: do not ask [default: DOCKER_HOST, else /var/run/docker.sock]
    #[arg(long, value_name = "PATH", value_parser = socket)]
    pub docker_socket: Option<PathBuf>,
    /// Socket of containerd; empty: do not ask [default: the usual places]
    #[arg(long, value_name = "PATH", value_parser = socket)]
    pub containerd_socket: Option<PathBuf>,
    /// Socket of a runtime that Kubernetes uses, for names of pods; empty: do not ask [default: the usual places]
    #[arg(long, value_name = "PATH", value_parser = socket)]
    pub cri_socket: Option<PathBuf>,
    /// Attach everything and capture nothing, to measure what that costs
    #[arg(long, hide = true)]
    pub empty_probes: bool,
}

#[derive(Debug, Args)]
pub struct Listen {
    /// Where health, metrics and reloading are to be had: ADDRESS:PORT, the path of a Unix socket, or none
    #[arg(long, value_name = "WHERE", default_value = "127.0.0.1:10001", env = "SIDETAP_HTTP_LISTEN")]
    pub http_listen: Address,
}

#[derive(Debug, Args)]
pub struct Log {
    /// How much the agent says of itself
    #[arg(long, value_name = "LEVEL", default_value = "info", global = true)]
    pub log_level: LogLevel,
    /// In which form
    #[arg(long, value_name = "ENCODING", default_value = "console", global = true)]
    pub log_encoding: LogEncoding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogEncoding {
    Console,
    Json,
}

/// Unlike other paths, it may be empty.
fn socket(text: &str) -> Result<PathBuf, Infallible> {
    Ok(text.into())
}

fn power_of_two(text: &str) -> Result<usize, String> {
    let kib: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    if kib.is_power_of_two() && (16..=1 << 20).contains(&kib) {
        return Ok(kib);
    }
    Err("must be a power of two from 16 to 1048576".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_is_the_default() {
        let cli = Cli::parse_from(["sidetap", "--log-level=info", "--log-encoding=console", "--config=/a"]);
        assert_eq!((cli.command.is_none(), cli.run.config), (true, Some("/a".into())));
        let cli = Cli::parse_from(["sidetap", "run", "--config", "/a", "--log-level", "debug"]);
        assert!(matches!(cli.command, Some(Command::Run(run)) if run.config == Some("/a".into())));
        assert_eq!(cli.log.log_level, LogLevel::Debug);
    }

    #[test]
    fn a_runtime_is_not_asked_where_its_socket_is_empty() {
        let run = Cli::parse_from(["sidetap", "--docker-socket", "", "--cri-socket=/run/crio.sock"]).run;
        assert_eq!((run.docker_socket, run.containerd_socket), (Some("".into()), None));
        assert_eq!(run.cri_socket, Some("/run/crio.sock".into()));
    }

    #[test]
    fn the_admin_listener_has_the_same_default_everywhere() {
        let default = Cli::parse_from(["sidetap"]).run.listen.http_listen;
        assert_eq!(default, Address::Tcp("127.0.0.1:10001".parse().unwrap()));
        let cli = Cli::parse_from(["sidetap", "reload"]);
        assert!(matches!(cli.command, Some(Command::Reload { listen }) if listen.http_listen == default));
        assert_eq!(Cli::parse_from(["sidetap", "--http-listen", "none"]).run.listen.http_listen, Address::None);
    }

    #[test]
    fn without_a_file_there_is_nothing_to_watch() {
        assert!(Cli::try_parse_from(["sidetap", "--watch"]).is_err());
        assert!(Cli::parse_from(["sidetap", "--watch", "--config", "/a"]).run.watch);
    }

    #[test]
    fn buffers_are_powers_of_two() {
        assert_eq!(power_of_two("64"), Ok(64));
        assert!(power_of_two("63").is_err() && power_of_two("8").is_err() && power_of_two("x").is_err());
    }
}
