use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use sidetap::cli::{Cli, Command, Log, LogEncoding, LogLevel, Run};
use sidetap::config::{self, Errors, Settings};
use sidetap::{admin, agent, check, replay};

/// What workers allocate, sinks free: the C library's allocator takes twice the time for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Something cannot be done here and now: no privileges, no kernel support, no file.
const FAILED: u8 = 1;
/// What was typed is wrong: the command line or the configuration.
const WRONG: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    init_log(&cli.log);
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(run) => {
            with_settings(run.config.as_deref(), config::load_guarded, |settings| start(&run, settings))
        }
        Command::Validate { file } => validate(&file),
        Command::Replay { file, config } => {
            with_settings(config.as_deref(), config::load, |settings| replay::run(&file, settings))
        }
        Command::Reload { listen } => reload(&listen.http_listen),
        Command::Check { programs } => check::run(programs),
    }
}

fn start(run: &Run, settings: Settings) -> anyhow::Result<()> {
    check::refuse_hopeless()?;
    agent::run(run, settings)
}

fn with_settings(
    path: Option<&Path>,
    load: impl FnOnce(&Path) -> Result<Settings, Errors>,
    run: impl FnOnce(Settings) -> anyhow::Result<()>,
) -> ExitCode {
    let settings = match path.map_or_else(|| Ok(config::default_settings()), load) {
        Ok(settings) => settings,
        Err(errors) => return refuse(&errors),
    };
    for warning in &settings.warnings {
        log::warn!("{warning}");
    }
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn validate(file: &Path) -> ExitCode {
    let settings = if file == Path::new("-") {
        let mut bytes = Vec::new();
        // One byte more than any configuration may have, so that a longer one is seen to be too long.
        if let Err(error) = std::io::stdin().lock().take(config::LARGEST as u64 + 1).read_to_end(&mut bytes) {
            eprintln!("cannot read standard input: {error}");
            return ExitCode::from(FAILED);
        }
        config::parse("-", &bytes)
    } else {
        config::load(file)
    };
    match settings {
        Ok(settings) => {
            for warning in settings.warnings {
                println!("warning: {warning}");
            }
            println!("{}: the configuration is valid", file.display());
            ExitCode::SUCCESS
        }
        Err(errors) => refuse(&errors),
    }
}

fn reload(address: &admin::Address) -> ExitCode {
    match admin::client::reload(address) {
        Ok(Ok(done)) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Ok(Err(why)) => {
            eprintln!("{why}");
            ExitCode::from(WRONG)
        }
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn refuse(errors: &Errors) -> ExitCode {
    eprintln!("{}", errors.to_string().trim_end());
    ExitCode::from(WRONG)
}

fn init_log(log: &Log) {
    let level = match log.log_level {
        LogLevel::Error => log::LevelFilter::Error,
        LogLevel::Warn => log::LevelFilter::Warn,
        LogLevel::Info => log::LevelFilter::Info,
        LogLevel::Debug => log::LevelFilter::Debug,
        LogLevel::Trace => log::LevelFilter::Trace,
    };
    let mut builder = env_logger::Builder::new();
    // Of the libraries only what goes wrong: more would hold headers of requests, and with them tokens.
    builder
        .filter_level(level.min(log::LevelFilter::Warn))
        .filter_module("sidetap", level)
        // Says at each try what the store says once.
        .filter_module("rustls_platform_verifier", log::LevelFilter::Off)
        .target(env_logger::Target::Stderr)
        .format_target(false);
    if log.log_encoding == LogEncoding::Json {
        builder.format(|out, record| {
            let line = serde_json::json!({
                "time": out.timestamp_millis().to_string(),
                "level": record.level().as_str().to_lowercase(),
                "message": record.args().to_string(),
            });
            writeln!(out, "{line}")
        });
    }
    builder.init();
}
