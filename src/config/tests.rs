//! What users meet: files that are accepted, and what each kind of wrong file is answered with.

use proptest::prelude::*;

use super::*;
use crate::exchange::{BodyEncoding, ContainerFacts, Format, Level, Pod};
use crate::rules::{Fact, Facts, Field, Stage, decide, stage};

fn environment(name: &str) -> Option<String> {
    let set = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "REGION"];
    set.contains(&name).then(|| format!("hidden {name}"))
}

fn accepted(text: &str) -> Settings {
    parse_with("qtap.yaml", text.as_bytes(), &environment).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

fn refused(text: impl AsRef<[u8]>) -> String {
    parse_with("qtap.yaml", text.as_ref(), &environment).expect_err("an error").to_string()
}

/// A configuration with one plugin; `config` are the lines of its `config`, without indentation.
fn with_config(config: &str) -> String {
    let config: String = config.lines().map(|line| format!("          {line}\n")).collect();
    format!(
        "version: 2\nservices: {{object_stores: [{{type: stdout}}]}}\nstacks:\n  web:\n    plugins:\n      - type: http_capture\n        \
         config:\n{config}tap: {{http: {{stack: web}}}}\n"
    )
}

macro_rules! guide {
    ($name:literal) => {
        include_str!(concat!("../../tests/data/config/guide-", $name, ".yaml"))
    };
}

/// Facts of one transaction; what is not named is absent.
struct Known(Vec<(&'static str, Fact<'static>)>);

impl Facts for Known {
    fn fact(&self, field: &Field) -> Fact<'_> {
        let name = field.to_string();
        self.0.iter().find(|(known, _)| *known == name).map_or(Fact::Absent, |(_, fact)| fact.clone())
    }
}

fn transaction(path: &'static str, status: i64, duration_ms: f64) -> Known {
    Known(vec![
        ("http.req.path", Fact::Text(path.into())),
        ("http.req.url", Fact::Text("http://dc2-web-1:8001/".into())),
        ("http.res.status", Fact::Int(status)),
        ("http.res.duration_ms", Fact::Float(duration_ms)),
    ])
}

fn level(settings: &Settings, facts: &Known) -> Level {
    let capture = &settings.stack_for("any").expect("a stack").capture[0];
    decide(&capture.rules, capture.level, facts).level.expect("all facts are known")
}

#[test]
fn the_guides_quick_start() {
    let settings = accepted(guide!("quick-start"));
    assert_eq!(settings.event_stores, [Store::Stdout]);
    assert_eq!(settings.object_stores, [Store::Stdout]);
    assert_eq!(settings.tap.direction, TapDirection::All);
    assert_eq!(settings.tap.filters.groups, [Group::Qpoint]);
    let stack = settings.stack_for("localhost:8085").expect("a stack");
    assert_eq!(stack.name, "haproxy_capture");
    assert_eq!((stack.capture[0].level, stack.capture[0].format), (Level::Full, Format::Text));
    assert_eq!(stack.capture[0].max_body_bytes, 1 << 20);
    assert_eq!(settings.warnings, [""; 0]);
}

#[test]
fn the_guides_egress_only() {
    for text in [guide!("1-load-balancing"), guide!("case-1-sticky-sessions"), guide!("case-2-blue-green")] {
        let settings = accepted(text);
        assert_eq!(settings.tap.direction, TapDirection::Egress);
        assert_eq!(level(&settings, &transaction("/", 200, 1.0)), Level::Summary);
        assert_eq!(settings.warnings, [""; 0]);
    }
}

#[test]
fn the_guides_health_checks() {
    let settings = accepted(guide!("2-health-checks"));
    assert_eq!(level(&settings, &transaction("/health", 200, 1.0)), Level::None);
    assert_eq!(level(&settings, &transaction("/health", 503, 1.0)), Level::Full);
    assert_eq!(level(&settings, &transaction("/api", 404, 1.0)), Level::Full);
    assert_eq!(level(&settings, &transaction("/api", 200, 1.0)), Level::None);
    assert_eq!(stage(&settings.stacks[0].capture[0].rules), Stage::ResponseHead);
}

#[test]
fn the_guides_backend_specific_capture() {
    let settings = accepted(guide!("3-backend-specific"));
    assert_eq!(level(&settings, &transaction("/api/users", 200, 1.0)), Level::Full);
    assert_eq!(level(&settings, &transaction("/", 200, 501.0)), Level::Headers);
    assert_eq!(level(&settings, &transaction("/", 500, 1.0)), Level::Full);
    assert_eq!(level(&settings, &transaction("/", 200, 1.0)), Level::None);
}

#[test]
fn the_guides_s3() {
    let settings = accepted(guide!("4-production-s3"));
    let [Store::S3(s3)] = &settings.object_stores[..] else { panic!("{:?}", settings.object_stores) };
    assert_eq!((s3.bucket.as_str(), s3.insecure), ("my-company-haproxy-traffic", false));
    let (_, secret) = s3.keys.as_ref().expect("keys");
    assert_eq!(secret.reveal(), "hidden AWS_SECRET_ACCESS_KEY");
    assert!(!format!("{settings:?}").contains("hidden"), "secrets are never shown");
    assert_eq!(settings.warnings, [""; 0]);
    assert!(!s3.path_style, "Amazon's buckets have hosts of their own");

    let errors = parse_with("qtap.yaml", guide!("4-production-s3").as_bytes(), &|_| None).expect_err("an error");
    assert_eq!(
        errors.to_string(),
        "qtap.yaml:14:16: services.object_stores[0].access_key.value: the environment variable AWS_ACCESS_KEY_ID is not set\n\
         qtap.yaml:17:16: services.object_stores[0].secret_key.value: the environment variable AWS_SECRET_ACCESS_KEY is not set"
    );
}

#[test]
fn the_guides_rate_limiting() {
    let settings = accepted(guide!("case-3-rate-limiting"));
    assert_eq!(level(&settings, &transaction("/", 429, 1.0)), Level::Full);
    assert_eq!(level(&settings, &transaction("/", 503, 1.0)), Level::Full);
    assert_eq!(level(&settings, &transaction("/", 500, 1.0)), Level::None);
    let mut retry = transaction("/", 200, 1.0);
    retry.0.push(("http.req.headers.retry-after", Fact::Text("3".into())));
    assert_eq!(level(&settings, &retry), Level::Headers);
}

#[test]
fn the_guides_datacenters() {
    let settings = accepted(guide!("case-4-datacenters"));
    assert_eq!(level(&settings, &transaction("/", 200, 1.0)), Level::Full);
    let mut primary = transaction("/", 500, 1.0);
    primary.0[1].1 = Fact::Text("http://dc1-web-1:8001/".into());
    assert_eq!(level(&settings, &primary), Level::Full);
    primary.0[2].1 = Fact::Int(200);
    assert_eq!(level(&settings, &primary), Level::None);
}

#[test]
fn the_guides_fragments() {
    accepted(&format!("version: 2\n{}", guide!("fragment-tap")));

    let settings = accepted(&with_config(guide!("fragment-rules")));
    assert_eq!(level(&settings, &transaction("/health", 200, 1.0)), Level::None);
    assert_eq!(level(&settings, &transaction("/", 200, 1.0)), Level::Full);

    let config = guide!("fragment-config").strip_prefix("config:\n").expect("a config");
    let settings = accepted(&with_config(config));
    assert_eq!(level(&settings, &transaction("/", 500, 1.0)), Level::Full);
    assert_eq!(level(&settings, &transaction("/", 200, 1.0)), Level::None);
}

#[test]
fn filters_are_read_in_both_places_and_warn_of_haproxy() {
    let text = "tap:\n  http: {stack: none}\n  filters:\n    custom: [{exe: curl}]\n";
    let settings = accepted(&format!("version: 2\n{}{text}", guide!("fragment-filters")));
    let filters = &settings.tap.filters;
    assert!(filters.leaves_out("/usr/local/sbin/haproxy") && filters.leaves_out("/usr/bin/curl"));
    assert!(!filters.leaves_out("/usr/sbin/nginx"));
    assert_eq!(
        settings.warnings[0],
        "filters.custom[0]: leaves haproxy out, so none of its traffic is captured: `custom` names the processes to leave \
         out; to capture these and no others, put them under `tap.filters.only`"
    );
}

#[test]
fn containers_are_chosen_by_name() {
    let text = "version: 2\ntap: {http: {stack: none}, filters: {containers: {only: ['web-*'], ignore: [web-db]}}}\n";
    let containers = &accepted(text).tap.filters.containers;
    assert!(containers.admits(Some("web-1")) && !containers.admits(Some("web-db")) && !containers.admits(None));
    assert_eq!(
        refused("version: 2\ntap: {filters: {containers: {onyl: [a]}}}\n"),
        "qtap.yaml:2:30: tap.filters.containers.onyl: unknown key (did you mean \"only\"?)"
    );
}

#[test]
fn tags_are_values_of_the_environment_or_labels() {
    let text = "version: 2\ntags:\n- {key: zone, source: env, location: ZONE}\n\
                - {key: team, source: container.label, location: com.example.team}\n\
                - {key: tier, source: k8s.label, location: tier}\n- {key: on, source: k8s.annotation, location: on}\n";
    let environment = |name: &str| (name == "ZONE").then(|| "eu".to_owned());
    let tags = parse_with("qtap.yaml", text.as_bytes(), &environment).expect("a good file").tags;
    let shown = |container: Option<&ContainerFacts>| {
        let tags = tags.of(container);
        tags.iter().map(|(key, value)| format!("{key}:{value}")).collect::<Vec<_>>().join(" ")
    };
    let labels = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let pod = Pod { labels: labels("tier", "front"), annotations: labels("on", "call"), ..Pod::default() };
    let labelled = ContainerFacts { labels: labels("com.example.team", "blue"), ..ContainerFacts::default() };
    let in_pod = ContainerFacts { pod: Some(pod.into()), ..labelled.clone() };
    assert_eq!(shown(None), "zone:eu");
    assert_eq!(shown(Some(&labelled)), "zone:eu team:blue");
    assert_eq!(shown(Some(&in_pod)), "zone:eu team:blue tier:front on:call");
    let twice = text.replace("key: on", "key: tier");
    assert_eq!(refused(&twice), "qtap.yaml:6:3: tags[3]: the tag \"tier\" is here twice");
}

/// The sample configuration with all that is off in it turned on.
fn all_turned_on(sample: &str) -> String {
    let mut on = None;
    let mut text = String::new();
    for line in sample.lines() {
        let indent = line.len() - line.trim_start().len();
        let comment = line.trim_start().strip_prefix('#');
        let continues = comment.is_some() && on == Some(indent);
        let begins = comment.is_some_and(|comment| comment.starts_with(|c: char| c == '-' || c.is_alphabetic()));
        on = (continues || begins).then_some(indent);
        match comment {
            Some(comment) if on.is_some() => text += &format!("{}{comment}\n", &line[..indent]),
            _ => text += &format!("{line}\n"),
        }
    }
    text
}

#[test]
fn the_sample_is_the_built_in_default_and_has_every_key() {
    let settings = default_settings();
    let capture = &settings.stack_for("any").expect("a stack").capture[0];
    assert_eq!((capture.level, capture.format, capture.max_body_bytes), (Level::Summary, Format::Text, 1 << 20));
    assert_eq!(settings.object_stores, [Store::Stdout]);
    assert_eq!(settings.warnings, [""; 0]);

    let problems = Problems::default();
    let text = all_turned_on(BUILT_IN);
    let settings = read("sidetap.yaml", text.as_bytes(), &environment, &problems).expect("YAML").expect("settings");
    let keys = problems.keys.take();
    assert_eq!(problems.into_vec(), [], "{text}");
    let lacking: Vec<_> = keys.iter().filter(|(key, here)| !*here && !key.starts_with("filters.")).collect();
    assert!(lacking.is_empty(), "not in config/sidetap.yaml: {lacking:?}");
    let stores: Vec<_> = settings.object_stores.iter().map(Store::name).collect();
    assert_eq!(stores, ["stdout", "file", "s3", "s3", "otel"]);
}

#[test]
fn files_that_are_no_configuration() {
    assert_eq!(refused(""), "qtap.yaml: the file is empty; a configuration starts with `version: 2`");
    assert_eq!(refused("# nothing\n"), "qtap.yaml: the file is empty; a configuration starts with `version: 2`");
    assert_eq!(refused(b"version: 2\ntap: \xff\n"), "qtap.yaml:2:6: not UTF-8 text: byte 0xff");
    assert_eq!(refused(vec![b'#'; LARGEST + 1]), "qtap.yaml: larger than 1 MiB, which no configuration is");
    assert_eq!(refused("[1, 2]"), "qtap.yaml:1:1: expected keys with values, found a list");
    assert_eq!(refused("tap: {}"), "qtap.yaml:1:1: \"version\" is missing; a configuration starts with `version: 2`");
    assert_eq!(refused("version: 1"), "qtap.yaml:1:10: version: unknown version \"1\", expected 2");
    let error = |path: &str| load(Path::new(path)).expect_err("no file").to_string();
    assert_eq!(error("/nowhere/qtap.yaml"), "/nowhere/qtap.yaml: no such file");
    assert_eq!(error("/"), "/: is a directory, not a file");
    assert_eq!(accepted("\u{feff}version: 2").stacks.len(), 0, "a byte order mark is no error");
}

#[test]
fn text_that_is_no_yaml() {
    for (text, message) in [
        ("version: 2\ntap:\n\tdirection: all\n", "3:1: a tab indents this line; YAML takes spaces only"),
        ("version: 2\nversion: 2\n", "2:1: the key \"version\" is here twice, first in line 1"),
        ("version: 2\n---\nversion: 2\n", "2:1: a second document starts here; a configuration is one document"),
        ("version: 2\n[a]: b\n", "2:1: a key must be a word"),
        ("version: 2\n<<: {a: b}\n", "2:1: merge keys (`<<`) are not supported; write the keys out"),
    ] {
        assert_eq!(refused(text), format!("qtap.yaml:{message}"), "{text}");
    }
    let deep = format!("version: {}", "[".repeat(100_000));
    assert_eq!(refused(deep), "qtap.yaml:1:265: nested deeper than 32");
    let mut bomb = "a0: &a0 [x, x]\n".to_string();
    for i in 1..30 {
        bomb += &format!("a{i}: &a{i} [*a{}, *a{}]\n", i - 1, i - 1);
    }
    let error = refused(bomb);
    assert!(error.contains("more than 100000 values or 4194304 bytes of text"), "{error}");
}

#[test]
fn expressions_that_yaml_takes_for_something_else() {
    for (expr, message) in [
        ("!is_ok() && http.res.status == 500", "put"),
        ("!(http.res.status == 500)", "put"),
        ("\"/x\" == http.req.path", "put"),
        ("http.req.path == \"a: b\"", "put"),
        ("[200] contains http.res.status", "put"),
    ] {
        let text = with_config(&format!("rules:\n  - expr: {expr}\n    level: full"));
        let error = refused(&text);
        let place = "qtap.yaml:9:21: ";
        assert!(error.starts_with(place) && error.contains(message) && error.contains("in single quotes"), "{error}");
    }
}

#[test]
fn keys_and_values_that_do_not_exist() {
    for (text, message) in [
        ("version: 2\nstack: {}\n", "2:1: stack: unknown key (did you mean \"stacks\"?)"),
        (
            "version: 2\ncolour: red\n",
            "2:1: colour: unknown key, expected one of version, services, rulekit, stacks, tags, tap, filters",
        ),
        (
            "version: 2\ntap:\n  ignore_loopbak: true\n",
            "3:3: tap.ignore_loopbak: unknown key (did you mean \"ignore_loopback\"?)",
        ),
        (
            "version: 2\ntap:\n  ignore_loopback: yes\n",
            "3:20: tap.ignore_loopback: expected true or false, found \"yes\"",
        ),
        (
            "version: 2\ntap:\n  ignore_loopback: 'true'\n",
            "3:20: tap.ignore_loopback: expected true or false, found \"true\"",
        ),
        (
            "version: 2\ntap:\n  direction: [all]\n",
            "3:14: tap.direction: expected one of all, ingress, egress, egress-internal, egress-external, found a list",
        ),
        (
            "version: 2\ntap:\n  direction: in\n",
            "3:14: tap.direction: unknown value \"in\", expected one of all, ingress, egress, egress-internal, egress-external",
        ),
        ("version: 2\ntap: all\n", "2:6: tap: expected keys with values, found \"all\""),
        ("version: 2\ntags: {}\n", "2:7: tags: expected a list, found keys with values"),
        ("version: 2\ntap:\n  http: {}\n", "3:9: tap.http: \"stack\" is missing; name one of the stacks, or none"),
        (
            "version: 2\ntap:\n  http:\n    stack: web\n",
            "4:12: tap.http.stack: unknown stack \"web\", expected one of none",
        ),
        (
            "version: 2\nstacks: {web: {}, api: {}}\ntap:\n  http:\n    stack: wbe\n",
            "5:12: tap.http.stack: unknown stack \"wbe\", expected one of none, web, api (did you mean \"web\"?)",
        ),
        (
            "version: 2\nstacks: {haproxy_capture: {}}\ntap:\n  http:\n    stack: haproxy-capture\n",
            "5:12: tap.http.stack: unknown stack \"haproxy-capture\", expected one of none, haproxy_capture (did you mean \"haproxy_capture\"?)",
        ),
        (
            "version: 2\nstacks:\n  none: {}\n",
            "3:9: stacks.none: a stack cannot be named \"none\": that stands for no stack",
        ),
        (
            "version: 2\ntap:\n  endpoints:\n    - domain: a.b:80\n      http: {stack: none}\n",
            "4:15: tap.endpoints[0].domain: \"a.b:80\" is no domain; write `example.com` or `*.example.com`, without a port",
        ),
        (
            "version: 2\ntap:\n  endpoints:\n    - domain: a.b\n",
            "4:7: tap.endpoints[0]: \"http\" is missing; write `http: {stack: NAME}`",
        ),
        (
            "version: 2\ntap:\n  filters:\n    groups: [docker]\n",
            "4:14: tap.filters.groups[0]: unknown value \"docker\", expected one of qpoint, container-runtimes, kubernetes, eks, gke",
        ),
        (
            "version: 2\ntap:\n  filters:\n    only: [{exe: '(', strategy: regex}]\n",
            "4:18: tap.filters.only[0].exe: bad regular expression `(`: unclosed group",
        ),
        (
            "version: 2\ntap:\n  filters:\n    only: [{strategy: regx, exe: a}]\n",
            "4:23: tap.filters.only[0].strategy: unknown value \"regx\", expected one of exact, prefix, suffix, contains, regex (did you mean \"regex\"?)",
        ),
        (
            "version: 2\ntags: [{key: a, source: envi, location: B}]\n",
            "2:25: tags[0].source: unknown value \"envi\", expected one of env, container.label, k8s.label, k8s.annotation (did you mean \"env\"?)",
        ),
    ] {
        assert_eq!(refused(text), format!("qtap.yaml:{message}"), "{text}");
    }
}

#[test]
fn plugins_that_are_wrong() {
    for (config, message) in [
        (
            "level: ful",
            "8:18: stacks.web.plugins[0].config.level: unknown value \"ful\", expected one of none, summary, headers, full (did you mean \"full\"?)",
        ),
        ("levle: full", "8:11: stacks.web.plugins[0].config.levle: unknown key (did you mean \"level\"?)"),
        ("format: xml", "8:19: stacks.web.plugins[0].config.format: unknown value \"xml\", expected one of json, text"),
        (
            "max_body_bytes: lots",
            "8:27: stacks.web.plugins[0].config.max_body_bytes: expected a number of bytes, such as 1048576, 16KiB or 10MB, found \"lots\"",
        ),
        (
            "max_body_bytes: -1",
            "8:27: stacks.web.plugins[0].config.max_body_bytes: expected a number of bytes, such as 1048576, 16KiB or 10MB, found \"-1\"",
        ),
        (
            "body_encoding: hex",
            "8:26: stacks.web.plugins[0].config.body_encoding: unknown value \"hex\", expected one of auto, base64",
        ),
        (
            "rules:\n  - level: full",
            "9:15: stacks.web.plugins[0].config.rules[0]: \"expr\" is missing; it says which transactions the rule is for",
        ),
        (
            "rules:\n  - expr: tls.enabled",
            "9:15: stacks.web.plugins[0].config.rules[0]: \"level\" is missing, expected one of none, summary, headers, full",
        ),
        (
            "rules:\n  - expr: http.req.pth == \"/\"\n    level: full",
            "9:21: stacks.web.plugins[0].config.rules[0].expr: unknown field `http.req.pth` (did you mean `http.req.path`?) at column 1 of the expression",
        ),
        (
            "rules:\n  - expr: http.req.path matches /(/\n    level: full",
            "9:21: stacks.web.plugins[0].config.rules[0].expr: bad regular expression `(`: unclosed group at column 23 of the expression",
        ),
        (
            "rules:\n  - expr: is_error()\n    level: full",
            "9:21: stacks.web.plugins[0].config.rules[0].expr: unknown macro `is_error()` at column 1 of the expression",
        ),
        ("sample: 2", "8:19: stacks.web.plugins[0].config.sample: expected a share between 0 and 1, such as 0.01"),
        ("redact: on", "8:19: stacks.web.plugins[0].config.redact: expected keys with values, found \"on\""),
        (
            "redact: {json: ['a..b']}",
            "8:27: stacks.web.plugins[0].config.redact.json[0]: not a path to a value in JSON: write keys with dots between \
             them, `*` for any key",
        ),
        (
            "redact: {patterns: ['a|(']}",
            "8:31: stacks.web.plugins[0].config.redact.patterns[0]: bad regular expression: unclosed group",
        ),
        (
            "redact: {patterns: ['a*']}",
            "8:31: stacks.web.plugins[0].config.redact.patterns[0]: matches nothing at all, and so everywhere",
        ),
    ] {
        assert_eq!(refused(with_config(config)), format!("qtap.yaml:{message}"), "{config}");
    }
    let plugin = |name: &str| with_config("level: full").replace("http_capture", name);
    assert_eq!(
        refused(plugin("access_logs")),
        "qtap.yaml:8:11: stacks.web.plugins[0].config.level: unknown key, expected one of mode, format, rules, sample, redact"
    );
    assert_eq!(
        refused(plugin("http_captur")),
        "qtap.yaml:6:15: stacks.web.plugins[0].type: unknown value \"http_captur\", expected one of http_capture, access_logs, \
         http_metrics, report_usage, detect_errors (did you mean \"http_capture\"?)"
    );
}

#[test]
fn plugins_and_their_defaults() {
    let stack = |plugins: &str| {
        let settings = accepted(&format!(
            "version: 2\nservices: {{event_stores: [{{type: stdout}}], object_stores: [{{type: stdout}}]}}\n\
             stacks: {{web: {{plugins: {plugins}}}}}\ntap: {{http: {{stack: web}}}}\n"
        ));
        (settings.stacks[0].clone(), settings.warnings)
    };
    let (errors, warnings) = stack("[{type: detect_errors}]");
    let level = |facts: &Known| decide(&errors.capture[0].rules, errors.capture[0].level, facts).level;
    assert_eq!(level(&transaction("/", 200, 1.0)), Some(Level::None));
    assert_eq!(level(&transaction("/", 404, 1.0)), Some(Level::Full));
    let mut called = transaction("/", 200, 1.0);
    called.0.push(("grpc.status", Fact::Int(5)));
    assert_eq!((level(&called), &warnings[..]), (Some(Level::Full), &[][..]));

    let (own, _) = stack("[{type: detect_errors, config: {level: headers, rules: [{expr: http.res.status == 404}]}}]");
    let level = |status| decide(&own.capture[0].rules, Level::None, &transaction("/", status, 1.0)).level;
    assert_eq!((level(404), level(500)), (Some(Level::Headers), Some(Level::None)));

    let (log, _) = stack("[{type: access_logs}]");
    assert_eq!((log.capture[0].level, log.capture[0].format), (Level::Summary, Format::Console));
    let (log, warnings) = stack("[{type: access_logs, config: {mode: full, format: combined}}]");
    assert_eq!((log.capture[0].level, log.capture[0].format), (Level::Summary, Format::Combined));
    let warning = "stacks.web.plugins[0].config: a line has what a summary has; for more, use `format: json`";
    assert_eq!(warnings, [warning]);
    let (log, _) = stack("[{type: access_logs, config: {mode: details, format: json, redact: off}}]");
    assert_eq!((log.capture[0].level, log.capture[0].redact.is_none()), (Level::Headers, true));

    let (counted, _) =
        stack("[{type: http_metrics, config: {max_hosts: 0}}, {type: report_usage, config: {headers: [X-A]}}]");
    assert_eq!(counted.metrics, Some(MetricsSettings { max_hosts: 0, max_backends: 100 }));
    assert_eq!((counted.usage.len(), &*counted.usage[0].headers[0]), (1, "X-A"));
    assert!(counted.usage[0].redact.is_some(), "what is secret is masked wherever nothing is said");
}

/// What is drawn is the same for both rules: the larger sample has all that the smaller one has.
#[test]
fn a_rule_with_a_sample_is_true_for_a_share() {
    struct Drawn(u64);
    impl Facts for Drawn {
        fn fact(&self, _: &Field) -> Fact<'_> {
            Fact::Absent
        }
        fn lot(&self) -> u64 {
            self.0
        }
    }
    let rules = "level: none\nrules:\n  - {expr: true, level: full, sample: 0.25}\n  - {expr: true, level: summary, sample: 0.5}";
    let settings = accepted(&with_config(rules));
    let capture = &settings.stacks[0].capture[0];
    let level = |share: f64| decide(&capture.rules, capture.level, &Drawn((share * u64::MAX as f64) as u64)).level;
    assert_eq!([0.1, 0.3, 0.7].map(level), [Level::Full, Level::Summary, Level::None].map(Some));
}

#[test]
fn macros_that_are_wrong() {
    let text = "version: 2\nrulekit:\n  macros:\n    - name: a\n      expr: b()\n    - name: b\n      expr: tls.enabled && a()\n    \
                - name: c\n      expr: http.res.status = 1\n    - name: c\n      expr: 'true'\n";
    assert_eq!(
        refused(text),
        "qtap.yaml:7:13: rulekit.macros[1].expr: macro cycle: a() -> b() -> a() at column 16 of the expression\n\
         qtap.yaml:9:13: rulekit.macros[2].expr: `=` is no operator (did you mean `==`?) at column 17 of the expression\n\
         qtap.yaml:10:13: rulekit.macros[3].name: the macro `c` is defined twice"
    );
}

#[test]
fn stores_that_are_wrong() {
    for (store, message) in [
        ("{type: stdout, path: x}", "4:22: services.object_stores[0].path: unknown key, expected one of type"),
        (
            "{type: kafka}",
            "4:14: services.object_stores[0].type: unknown value \"kafka\", expected one of stdout, file, s3, otel, disabled",
        ),
        (
            "{path: x}",
            "4:7: services.object_stores[0]: \"type\" is missing, expected one of stdout, file, s3, otel, disabled",
        ),
        ("{type: s3}", "4:7: services.object_stores[0]: \"bucket\" is missing; name the bucket to write to"),
        (
            "{type: s3, bucket: a/b}",
            "4:26: services.object_stores[0].bucket: a bucket's name has no slash; what stands before the names of objects is `prefix`",
        ),
        ("{type: s3, bucket: ''}", "4:26: services.object_stores[0].bucket: is empty"),
        (
            "{type: s3, bucket: b, access_key: {type: text, value: x}}",
            "4:7: services.object_stores[0]: \"access_key\" is there without \"secret_key\"; give both, or neither for the usual credential chain",
        ),
        (
            "{type: s3, bucket: b, access_url: 'http://{{HOST}}/'}",
            "4:41: services.object_stores[0].access_url: unknown \"{{HOST}}\", expected one of {{SCHEME}}, {{ENDPOINT}}, {{BUCKET}}, {{KEY}}, {{DIGEST}}",
        ),
        (
            "{type: s3, bucket: b, batch: {max_age: 10}}",
            "4:46: services.object_stores[0].batch.max_age: expected a time, such as 500ms, 10s, 5m or 1h, found \"10\"",
        ),
        (
            "{type: otel, headers: {authorization: {type: env, value: TOKEN}}}",
            "4:64: services.object_stores[0].headers.authorization.value: the environment variable TOKEN is not set",
        ),
        (
            "{type: otel, headers: {authorization: abc}}",
            "4:45: services.object_stores[0].headers.authorization: expected keys with values: `type: env` or `type: text`, and `value`",
        ),
        (
            "{type: otel, spool: {max_bytes: 1KiB}}",
            "4:39: services.object_stores[0].spool.max_bytes: has no room for a batch; it must be at least 1MiB",
        ),
        ("{type: file}", "4:7: services.object_stores[0]: \"path\" is missing; name the file to write to"),
        (
            "{type: file, path: /a, rotate: {keep: 3}}",
            "4:38: services.object_stores[0].rotate: \"max_bytes\" is missing; say how large a file may grow, such as 100MiB, or give \"max_age\"",
        ),
        (
            "{type: file, path: /a, rotate: {max_age: 1h, compression: brotli}}",
            "4:65: services.object_stores[0].rotate.compression: unknown value \"brotli\", expected one of zstd, gzip, none",
        ),
        (
            "{type: s3, bucket: b, endpoint: 'http://localhost:9000'}",
            "4:39: services.object_stores[0].endpoint: write the host alone, without a scheme; `insecure: true` is plain http",
        ),
        (
            "{type: s3, bucket: b, key: '{{DIGEST}}'}",
            "4:34: services.object_stores[0].key: is for `mode: object`; in batches, `prefix` stands before the names of objects",
        ),
        (
            "{type: s3, bucket: b, mode: object, key: a}",
            "4:48: services.object_stores[0].key: needs a {{DIGEST}}, or all objects would have the same name",
        ),
        (
            "{type: s3, bucket: b, mode: object, batch: {compression: gzip}}",
            "4:64: services.object_stores[0].batch.compression: is for `mode: batch`; an object of a single transaction is not compressed",
        ),
        (
            "{type: s3, bucket: b, session_token: {type: text, value: x}}",
            "4:44: services.object_stores[0].session_token: belongs to \"access_key\" and \"secret_key\", which are missing",
        ),
        (
            "{type: s3, bucket: b, spool: {max_bytes: 1MiB}}",
            "4:48: services.object_stores[0].spool.max_bytes: has no room for a batch; it must be at least `batch.max_bytes`",
        ),
    ] {
        let text = format!("version: 2\nservices:\n  object_stores:\n    - {store}\n");
        assert_eq!(refused(&text), format!("qtap.yaml:{message}"), "{text}");
    }
    assert_eq!(
        refused("version: 2\nservices: {event_stores: [{type: s3}]}"),
        "qtap.yaml:2:34: services.event_stores[0].type: unknown value \"s3\", expected one of stdout, file, otel, disabled"
    );
}

#[test]
fn all_errors_are_reported_at_once_in_order() {
    let text = "version: 3\ntap:\n  directon: all\n  http: {stack: x}\nservices:\n  object_stores: [{type: s3}]\n";
    assert_eq!(
        refused(text),
        "qtap.yaml:1:10: version: unknown version \"3\", expected 2\n\
         qtap.yaml:3:3: tap.directon: unknown key (did you mean \"direction\"?)\n\
         qtap.yaml:4:17: tap.http.stack: unknown stack \"x\", expected one of none\n\
         qtap.yaml:6:19: services.object_stores[0]: \"bucket\" is missing; name the bucket to write to"
    );
    let many: String = (0..200).map(|i| format!("k{i}: 1\n")).collect();
    let error = refused(format!("version: 2\n{many}"));
    assert_eq!(error.lines().count(), 51);
    assert!(error.ends_with("\nqtap.yaml: and 150 more errors"), "{error}");
}

#[test]
fn a_message_is_one_line_of_bounded_length() {
    let error = refused(format!("version: \"{}\\n\\e[31m\"", "é\u{7}".repeat(2)));
    assert_eq!(error, "qtap.yaml:1:10: version: unknown version \"é\\u{7}é\\u{7}\\n\\u{1b}[31m\", expected 2");
    let error = refused(format!("version: {}", "x".repeat(10_000)));
    assert_eq!(error.chars().count(), 601);
}

#[test]
fn sizes_and_spellings() {
    for (written, bytes) in
        [("0", 0), ("1048576", 1 << 20), ("16KiB", 16 << 10), ("1MiB", 1 << 20), ("10MB", 10_000_000), ("1 kb", 1000)]
    {
        let settings =
            accepted(&with_config(&format!("level: details\nmax_body_bytes: {written}\nbody_encoding: base64")));
        let capture = &settings.stacks[0].capture[0];
        assert_eq!(capture.max_body_bytes, bytes, "{written}");
        assert_eq!((capture.level, capture.body_encoding), (Level::Headers, BodyEncoding::Base64));
    }
}

#[test]
fn endpoints_choose_the_stack() {
    let text = "version: 2\nstacks: {a: {}, b: {}, c: {}}\ntap:\n  http: {stack: a}\n  endpoints:\n    \
                - {domain: '*.Example.com', http: {stack: b}}\n    - {domain: api.example.com, http: {stack: c}}\n    \
                - {domain: '*.quiet.example.com', http: {stack: none}}\n";
    let settings = accepted(text);
    for (host, stack) in [
        ("example.com", Some("a")),
        ("www.EXAMPLE.com:8443", Some("b")),
        ("api.example.com.", Some("c")),
        ("x.api.example.com", Some("b")),
        ("x.quiet.example.com", None),
        ("[::1]:80", Some("a")),
        ("", Some("a")),
    ] {
        assert_eq!(settings.stack_for(host).map(|stack| stack.name.as_str()), stack, "{host}");
    }
}

#[test]
fn silence_is_warned_of() {
    assert_eq!(
        accepted("version: 2").warnings,
        [
            "tap.http.stack is missing, so no transaction is captured; name one of the stacks there, or none",
            "services.object_stores is empty, so no transaction is written; list a store there, such as stdout",
        ]
    );
    assert_eq!(
        accepted(&with_config("format: json")).warnings,
        ["stacks.web.plugins[0].config: captures nothing: the level is none, and no rule has another"]
    );
    let tag = "version: 2\ntags: [{key: zone, source: env, location: ZONE}]\n";
    assert_eq!(
        accepted(tag).warnings[0],
        "tags[0]: the environment variable ZONE is not set; the tag \"zone\" is left out"
    );
}

#[test]
fn hostile_files_are_survived() {
    let parts = [
        "[",
        "{",
        "- ",
        "? ",
        ": ",
        "{a: ",
        "[a, ",
        "&a ",
        "*a ",
        "!",
        "!a ",
        "%",
        "%TAG ! !\n",
        "\"",
        "'",
        "|\n",
        ">\n",
        "#",
        "# \n",
        "a:\n",
        "a: b\n",
        " ",
        "\t",
        "\n",
        "\r",
        "---\n",
        "...\n",
        "a",
        "\"\\x41",
        "a: |\n ",
        "\u{feff}",
        "\0",
        "a: &a [*a]\n",
        "é",
        "- &a a\n- *a\n",
        "- - - -\n",
        ",",
        "a: 'b\n\n",
        "-\n ",
        "{? ",
        "[? a : ",
        "[{",
        "a: \"\\\n",
    ];
    for part in parts {
        for head in ["", "version: 2\n", "version: [", "tap: {", "a: \""] {
            let file = format!("{head}{}", part.repeat(32 * 1024 / part.len()));
            let _ = parse_with("any", file.as_bytes(), &environment);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_settings_or_errors(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_with("any", &bytes, &environment);
    }

    /// A valid file with a few characters changed.
    #[test]
    fn any_change_is_survived(changes in proptest::collection::vec((0usize..6000, "[-\\[\\]{}:&*!|>'\"%@`#,? \t\na]"), 1..5)) {
        let mut text: Vec<char> = all_turned_on(BUILT_IN).chars().collect();
        for (at, with) in changes {
            let at = at % text.len();
            text[at] = with.chars().next().expect("one character");
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = parse_with("any", text.as_bytes(), &environment) {
            prop_assert!(errors.problems.iter().all(|problem| problem.position.is_some()), "{}", errors);
        }
    }
}
