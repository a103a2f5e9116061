//! `stacks`: the plugins, their keys and defaults.

use std::sync::Arc;

use regex::bytes::RegexBuilder;

use super::reader::{Item, Section};
use super::settings::{HttpCapture, MetricsSettings, ReportUsage, Stack};
use crate::exchange::{BodyEncoding, Format, Level};
use crate::redact::{Path, Redact};
use crate::rules::{CompiledRule, Compiler, Sample};

const LEVELS: [(&str, Level); 5] = [
    ("none", Level::None),
    ("summary", Level::Summary),
    ("headers", Level::Headers),
    ("full", Level::Full),
    ("details", Level::Headers),
];
const FORMATS: [(&str, Format); 2] = [("json", Format::Json), ("text", Format::Text)];
const LOG_FORMATS: [(&str, Format); 4] =
    [("console", Format::Console), ("json", Format::Json), ("common", Format::Common), ("combined", Format::Combined)];
const BODY_ENCODINGS: [(&str, BodyEncoding); 2] = [("auto", BodyEncoding::Auto), ("base64", BodyEncoding::Base64)];

const DEFAULT_MAX_BODY_BYTES: u64 = 1 << 20;

/// Series of `http_metrics` for single hosts, and for single backends.
const DEFAULT_SERIES: u32 = 100;
const MOST_SERIES: u32 = 10_000;

/// What a pattern may take once it is compiled, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;

/// What `detect_errors` takes for an error.
const IS_ERROR: &str = "http.res.status >= 400 || grpc.status > 0";

#[derive(Clone, Copy, PartialEq)]
enum Type {
    HttpCapture,
    AccessLogs,
    HttpMetrics,
    ReportUsage,
    DetectErrors,
}

const TYPES: [(&str, Type); 5] = [
    ("http_capture", Type::HttpCapture),
    ("access_logs", Type::AccessLogs),
    ("http_metrics", Type::HttpMetrics),
    ("report_usage", Type::ReportUsage),
    ("detect_errors", Type::DetectErrors),
];

pub fn stacks(root: &Section, compiler: &mut Compiler, warnings: &mut Vec<String>) -> Vec<Stack> {
    let mut stacks = Vec::new();
    for (name, item) in root.get("stacks").map(|stacks| stacks.entries()).unwrap_or_default() {
        if name == "none" {
            item.error("a stack cannot be named \"none\": that stands for no stack");
        }
        let mut stack = Stack { name: name.to_string(), capture: Vec::new(), usage: Vec::new(), metrics: None };
        for item in item.section(&["plugins"]).map(|stack| stack.list("plugins")).unwrap_or_default() {
            plugin(&item, compiler, warnings, &mut stack);
        }
        stacks.push(stack);
    }
    stacks
}

fn plugin(item: &Item, compiler: &mut Compiler, warnings: &mut Vec<String>, stack: &mut Stack) -> Option<()> {
    let plugin = item.section(&["type", "config"])?;
    let kind = plugin.required("type", "; name a plugin, such as http_capture")?.choice(&TYPES)?;
    match kind {
        Type::HttpCapture => stack.capture.push(http_capture(&plugin, compiler, warnings)),
        Type::AccessLogs => stack.capture.push(access_logs(&plugin, compiler, warnings)),
        Type::DetectErrors => stack.capture.push(detect_errors(&plugin, compiler)),
        Type::ReportUsage => stack.usage.push(report_usage(&plugin)),
        Type::HttpMetrics if stack.metrics.is_some() => {
            item.error("http_metrics is in this stack twice; once is enough to count all");
        }
        Type::HttpMetrics => stack.metrics = Some(http_metrics(&plugin)),
    }
    Some(())
}

/// What `http_capture` is where nothing is said.
fn defaults() -> HttpCapture {
    HttpCapture {
        level: Level::None,
        format: Format::Json,
        rules: Vec::new(),
        max_body_bytes: DEFAULT_MAX_BODY_BYTES,
        body_encoding: BodyEncoding::Auto,
        sample: Sample::ALL,
        redact: Some(Arc::default()),
    }
}

fn http_capture(plugin: &Section, compiler: &mut Compiler, warnings: &mut Vec<String>) -> HttpCapture {
    let mut capture = defaults();
    let keys = ["level", "format", "rules", "max_body_bytes", "body_encoding", "sample", "redact"];
    if let Some(config) = plugin.section("config", &keys) {
        capture.level = config.get("level").and_then(|item| item.choice(&LEVELS)).unwrap_or_default();
        capture.rules = rules(&config, "level", None, compiler);
        read_form(&config, &mut capture);
    }
    warn_of_nothing(plugin, &capture, "level", warnings);
    capture
}

fn access_logs(plugin: &Section, compiler: &mut Compiler, warnings: &mut Vec<String>) -> HttpCapture {
    let mut log = HttpCapture { level: Level::Summary, format: Format::Console, ..defaults() };
    if let Some(config) = plugin.section("config", &["mode", "format", "rules", "sample", "redact"]) {
        log.level = config.get("mode").and_then(|item| item.choice(&LEVELS)).unwrap_or(log.level);
        log.format = config.get("format").and_then(|item| item.choice(&LOG_FORMATS)).unwrap_or(log.format);
        log.rules = rules(&config, "mode", None, compiler);
        (log.sample, log.redact) = (sample(&config), redact(&config));
    }
    let levels = [log.level].into_iter().chain(log.rules.iter().map(|rule| rule.level));
    if log.format != Format::Json && levels.into_iter().any(|level| level > Level::Summary) {
        let path = &plugin.path;
        warnings.push(format!("{path}.config: a line has what a summary has; for more, use `format: json`"));
        // What is not written need not be kept.
        log.level = log.level.min(Level::Summary);
        log.rules.iter_mut().for_each(|rule| rule.level = rule.level.min(Level::Summary));
    }
    warn_of_nothing(plugin, &log, "mode", warnings);
    log
}

/// Without rules of its own: whatever is an error.
fn detect_errors(plugin: &Section, compiler: &mut Compiler) -> HttpCapture {
    let mut capture = defaults();
    let mut level = Level::Full;
    let keys = ["level", "format", "rules", "max_body_bytes", "body_encoding", "sample", "redact"];
    if let Some(config) = plugin.section("config", &keys) {
        level = config.get("level").and_then(|item| item.choice(&LEVELS)).unwrap_or(level);
        capture.rules = rules(&config, "level", Some(level), compiler);
        read_form(&config, &mut capture);
    }
    if capture.rules.is_empty() {
        let expr = compiler.compile(IS_ERROR).expect("it is an expression, which a test checks");
        capture.rules.push(CompiledRule { name: "errors".to_owned(), level, expr, sample: Sample::ALL });
    }
    capture
}

fn report_usage(plugin: &Section) -> ReportUsage {
    let mut usage = ReportUsage { headers: Arc::default(), sample: Sample::ALL, redact: Some(Arc::default()) };
    if let Some(config) = plugin.section("config", &["headers", "sample", "redact"]) {
        usage.headers = words(&config, "headers").into();
        (usage.sample, usage.redact) = (sample(&config), redact(&config));
    }
    usage
}

fn http_metrics(plugin: &Section) -> MetricsSettings {
    let config = plugin.section("config", &["max_hosts", "max_backends"]);
    let count = |key: &str| {
        let Some(item) = config.as_ref().and_then(|config| config.get(key)) else { return DEFAULT_SERIES };
        let count = item.count().unwrap_or_default();
        if count > MOST_SERIES {
            item.error(format!("more than {MOST_SERIES}"));
        }
        count
    };
    MetricsSettings { max_hosts: count("max_hosts") as usize, max_backends: count("max_backends") as usize }
}

/// What `http_capture` and `detect_errors` have in common.
fn read_form(config: &Section, capture: &mut HttpCapture) {
    capture.format = config.get("format").and_then(|item| item.choice(&FORMATS)).unwrap_or_default();
    let max_body_bytes = config.get("max_body_bytes").and_then(|item| item.size());
    capture.max_body_bytes = max_body_bytes.unwrap_or(DEFAULT_MAX_BODY_BYTES);
    let body_encoding = config.get("body_encoding").and_then(|item| item.choice(&BODY_ENCODINGS));
    capture.body_encoding = body_encoding.unwrap_or_default();
    (capture.sample, capture.redact) = (sample(config), redact(config));
}

fn warn_of_nothing(plugin: &Section, capture: &HttpCapture, key: &str, warnings: &mut Vec<String>) {
    if capture.level == Level::None && capture.rules.iter().all(|rule| rule.level == Level::None) {
        let path = &plugin.path;
        warnings.push(format!("{path}.config: captures nothing: the {key} is none, and no rule has another"));
    }
}

/// `key`: what the level is called; `default`: that of a rule without.
fn rules(config: &Section, key: &str, default: Option<Level>, compiler: &mut Compiler) -> Vec<CompiledRule> {
    config.list("rules").iter().filter_map(|item| rule(item, key, default, compiler)).collect()
}

fn rule(item: &Item, key: &str, default: Option<Level>, compiler: &mut Compiler) -> Option<CompiledRule> {
    let rule = item.section(&["name", "expr", key, "sample"])?;
    let name = rule.get("name").map_or(Some(item.path.as_str()), |name| name.text());
    let level = match default {
        Some(default) => rule.get(key).map_or(Some(default), |level| level.choice(&LEVELS)),
        None => rule.required(key, ", expected one of none, summary, headers, full").and_then(|l| l.choice(&LEVELS)),
    };
    let sample = sample(&rule);
    let expr = rule.required("expr", "; it says which transactions the rule is for")?;
    match compiler.compile(expr.text()?) {
        Ok(compiled) => Some(CompiledRule { name: name?.to_string(), level: level?, expr: compiled, sample }),
        Err(error) => {
            expr.error(error.to_string());
            None
        }
    }
}

fn sample(section: &Section) -> Sample {
    let Some(item) = section.get("sample") else { return Sample::ALL };
    let sample = item.text().and_then(|text| Sample::new(text.parse().ok()?));
    sample.unwrap_or_else(|| {
        item.error("expected a share between 0 and 1, such as 0.01");
        Sample::ALL
    })
}

/// None where it is off.
fn redact(section: &Section) -> Option<Arc<Redact>> {
    let Some(item) = section.get("redact") else { return Some(Arc::default()) };
    if item.is_off() {
        return None;
    }
    let keys = item.section(&["headers", "query", "json", "patterns"])?;
    let mut paths = Vec::new();
    for item in keys.list("json") {
        let Some(text) = item.text() else { continue };
        match Path::parse(text) {
            Ok(path) => paths.push(path),
            Err(error) => item.error(format!("not a path to a value in JSON: {error}")),
        }
    }
    let mut patterns = Vec::new();
    for item in keys.list("patterns") {
        let Some(text) = item.text() else { continue };
        match RegexBuilder::new(text).size_limit(LARGEST_PATTERN).build() {
            Ok(pattern) if pattern.is_match(b"") => item.error("matches nothing at all, and so everywhere"),
            Ok(pattern) => patterns.push(pattern),
            Err(error) => item.error(format!("bad regular expression: {}", last_line(&error.to_string()))),
        }
    }
    Some(Arc::new(Redact::new(words(&keys, "headers"), words(&keys, "query"), paths, patterns)))
}

fn words(section: &Section, key: &str) -> Vec<Box<str>> {
    section.list(key).iter().filter_map(|item| item.text().map(Box::from)).collect()
}

/// The library draws the pattern above it.
fn last_line(message: &str) -> &str {
    message.lines().last().unwrap_or_default().trim_start_matches("error: ")
}
