//! The sections of the file, from `rulekit` to `tap`, as settings.
//!
//! Owns which keys there are, their defaults and how they refer to one another.

use std::collections::HashSet;

use super::filters::{ExeMatch, Filters, Group, Strategy};
use super::plugins::stacks;
use super::reader::{Item, Section};
use super::settings::{EndpointRule, Settings, Stack, Store, Tag, TagSource, Tags, Tap, TapDirection};
use super::stores::{Environment, event_stores, object_stores};
use crate::rules::Compiler;

const DIRECTIONS: [(&str, TapDirection); 5] = [
    ("all", TapDirection::All),
    ("ingress", TapDirection::Ingress),
    ("egress", TapDirection::Egress),
    ("egress-internal", TapDirection::EgressInternal),
    ("egress-external", TapDirection::EgressExternal),
];
const TAG_SOURCES: [(&str, TagSource); 4] = [
    ("env", TagSource::Env),
    ("container.label", TagSource::ContainerLabel),
    ("k8s.label", TagSource::K8sLabel),
    ("k8s.annotation", TagSource::K8sAnnotation),
];
const GROUPS: [(&str, Group); 6] = [
    ("qpoint", Group::Qpoint),
    ("container-runtimes", Group::ContainerRuntimes),
    ("kubernetes", Group::Kubernetes),
    ("eks", Group::Eks),
    ("gke", Group::Gke),
    ("container", Group::ContainerRuntimes),
];

/// The whole file, or as much of it as can be read; what is wrong with it is in the items' list of problems.
pub fn settings(root: &Item, env: Environment) -> Option<Settings> {
    let root = root.section(&["version", "services", "rulekit", "stacks", "tags", "tap", "filters"])?;
    version(&root);
    let mut warnings = Vec::new();
    let services = root.section("services", &["event_stores", "object_stores"]);
    let event_stores = services.as_ref().map(|services| event_stores(services, env));
    let object_stores = services.as_ref().map(|services| object_stores(services, env));
    let mut compiler = macros(&root);
    let stacks = stacks(&root, &mut compiler, &mut warnings);
    let tags = tags(&root, env, &mut warnings);
    let mut settings = Settings {
        event_stores: event_stores.unwrap_or_default(),
        object_stores: object_stores.unwrap_or_default(),
        stacks,
        default_stack: None,
        endpoints: Vec::new(),
        tap: Tap::default(),
        tags,
        warnings,
    };
    let keys = ["direction", "ignore_loopback", "audit_include_dns", "http", "endpoints", "filters"];
    let mut http_is_there = false;
    if let Some(section) = root.section("tap", &keys) {
        http_is_there = section.get("http").is_some();
        tap(&section, &mut compiler, &mut settings);
    }
    if let Some(section) = filters_section(&root) {
        filters(&section, &mut compiler, &mut settings);
    }
    warn_of_silence(&mut settings, http_is_there);
    Some(settings)
}

fn version(root: &Section) {
    let Some(version) = root.required("version", "; a configuration starts with `version: 2`") else { return };
    if version.text().is_some_and(|text| text != "2") {
        version.error(format!("unknown version \"{}\", expected 2", version.text().unwrap_or_default()));
    }
}

fn macros(root: &Section) -> Compiler {
    let items = root.section("rulekit", &["macros"]).map(|rulekit| rulekit.list("macros")).unwrap_or_default();
    let mut definitions = Vec::new();
    let mut places = Vec::new();
    for item in items {
        let Some(section) = item.section(&["name", "expr"]) else { continue };
        let name = section.required("name", "; the macro is called by it").and_then(|name| Some((name.text()?, name)));
        let expr = section.required("expr", "; it says what the macro stands for");
        let expr = expr.and_then(|expr| Some((expr.text()?, expr)));
        let (Some((name, name_item)), Some((source, expr_item))) = (name, expr) else { continue };
        definitions.push((name.to_string(), source.to_string()));
        places.push((name_item, expr_item));
    }
    let (compiler, wrong) = Compiler::new(&definitions);
    for (number, error) in wrong {
        let (name, expr) = &places[number];
        if error.column.is_some() { expr.error(error.to_string()) } else { name.error(error.to_string()) }
    }
    compiler
}

fn tags(root: &Section, env: Environment, warnings: &mut Vec<String>) -> Tags {
    let (mut fixed, mut looked_up) = (Vec::new(), Vec::new());
    let mut keys = HashSet::new();
    for item in root.list("tags") {
        let Some(tag) = tag(&item) else { continue };
        if !keys.insert(tag.key.clone()) {
            item.error(format!("the tag \"{}\" is here twice", tag.key));
        }
        if tag.source != TagSource::Env {
            looked_up.push(tag);
            continue;
        }
        let Tag { key, location, .. } = tag;
        match env(&location) {
            Some(value) => fixed.push((key, value)),
            None => warnings.push(format!(
                "{}: the environment variable {location} is not set; the tag \"{key}\" is left out",
                item.path
            )),
        }
    }
    Tags::new(fixed, looked_up)
}

fn tag(item: &Item) -> Option<Tag> {
    let tag = item.section(&["key", "source", "location"])?;
    let key = tag.required("key", "; it is the tag's name").and_then(|key| key.text());
    let source = tag.required("source", ", expected one of env, container.label, k8s.label, k8s.annotation");
    let source = source.and_then(|source| source.choice(&TAG_SOURCES));
    let location = tag.required("location", "; name the variable, label or annotation");
    let location = location.and_then(|location| location.text());
    Some(Tag { key: key?.to_string(), source: source?, location: location?.to_string() })
}

fn tap(section: &Section, compiler: &mut Compiler, settings: &mut Settings) {
    let flag = |key: &str| section.get(key).and_then(|item| item.boolean()).unwrap_or(false);
    settings.tap.direction = section.get("direction").and_then(|item| item.choice(&DIRECTIONS)).unwrap_or_default();
    settings.tap.ignore_loopback = flag("ignore_loopback");
    settings.tap.audit_include_dns = flag("audit_include_dns");
    settings.default_stack = section.get("http").and_then(|http| named_stack(&http, &settings.stacks));
    let mut domains = HashSet::new();
    for item in section.list("endpoints") {
        let Some(endpoint) = endpoint(&item, &settings.stacks) else { continue };
        if !domains.insert(endpoint.domain.clone()) {
            item.error(format!("the domain \"{}\" is here twice", endpoint.domain));
        }
        settings.endpoints.push(endpoint);
    }
    if let Some(section) = filters_section(section) {
        filters(&section, compiler, settings);
    }
}

fn endpoint(item: &Item, stacks: &[Stack]) -> Option<EndpointRule> {
    let endpoint = item.section(&["domain", "http"])?;
    let http = endpoint.required("http", "; write `http: {stack: NAME}`");
    let stack = http.and_then(|http| named_stack(&http, stacks));
    let domain_item = endpoint.required("domain", "; write `example.com` or `*.example.com`")?;
    let domain = domain_item.text()?.to_ascii_lowercase();
    let labels = domain.strip_prefix("*.").unwrap_or(&domain);
    if labels.is_empty() || labels.contains(['*', '/', ':', ' ']) {
        domain_item.error(format!("\"{domain}\" is no domain; write `example.com` or `*.example.com`, without a port"));
        return None;
    }
    Some(EndpointRule { domain, stack })
}

/// `{stack: NAME}` as an index into the stacks; none for `none`.
fn named_stack(http: &Item, stacks: &[Stack]) -> Option<usize> {
    let why = "; name one of the stacks, or none";
    let item = http.section(&["stack"])?.required("stack", why)?;
    let mut choices: Vec<(&str, Option<usize>)> = vec![("none", None)];
    choices.extend(stacks.iter().enumerate().map(|(i, stack)| (stack.name.as_str(), Some(i))));
    item.named("stack", &choices)?
}

fn filters_section<'a>(parent: &Section<'a>) -> Option<Section<'a>> {
    parent.section("filters", &["groups", "custom", "only", "containers"])
}

/// Adds to the filters: the file may have them in two places.
fn filters(section: &Section, compiler: &mut Compiler, settings: &mut Settings) {
    let Filters { groups, custom, only, containers } = &mut settings.tap.filters;
    groups.extend(section.list("groups").iter().filter_map(|item| item.choice(&GROUPS)));
    only.extend(section.list("only").iter().filter_map(|item| exe_match(item, compiler)));
    if let Some(section) = section.section("containers", &["only", "ignore"]) {
        let names = |key: &str| section.list(key).iter().filter_map(|item| item.text().map(str::to_string)).collect();
        containers.only.extend(names("only"));
        containers.ignore.extend(names("ignore"));
    }
    for item in section.list("custom") {
        let Some(filter) = exe_match(&item, compiler) else { continue };
        if filter.is_haproxy() {
            settings.warnings.push(format!(
                "{}: leaves haproxy out, so none of its traffic is captured: `custom` names the processes to leave out; \
                 to capture these and no others, put them under `tap.filters.only`",
                item.path
            ));
        }
        custom.push(filter);
    }
}

fn exe_match(item: &Item, compiler: &mut Compiler) -> Option<ExeMatch> {
    const STRATEGIES: [&str; 5] = ["exact", "prefix", "suffix", "contains", "regex"];
    let section = item.section(&["exe", "strategy"])?;
    let choices = STRATEGIES.map(|name| (name, name));
    let strategy = section.get("strategy").map_or(Some("exact"), |strategy| strategy.choice(&choices));
    let exe_item = section.required("exe", "; write the path of an executable, such as /usr/sbin/haproxy")?;
    let exe = exe_item.text()?;
    let strategy = match strategy? {
        "prefix" => Strategy::Prefix,
        "suffix" => Strategy::Suffix,
        "contains" => Strategy::Contains,
        "regex" => Strategy::Regex(compiler.pattern(exe).map_err(|message| exe_item.error(message)).ok()?),
        _ => Strategy::Exact,
    };
    Some(ExeMatch { exe: exe.to_string(), strategy })
}

/// Warns of a configuration that is right, and yet captures nothing or writes nothing.
fn warn_of_silence(settings: &mut Settings, http_is_there: bool) {
    if !http_is_there && settings.endpoints.is_empty() {
        let message = "tap.http.stack is missing, so no transaction is captured; name one of the stacks there, or none";
        settings.warnings.push(message.to_string());
    }
    if settings.object_stores.is_empty() {
        let message =
            "services.object_stores is empty, so no transaction is written; list a store there, such as stdout";
        settings.warnings.push(message.to_string());
    }
    let has_events = settings.event_stores.iter().any(|store| *store != Store::Disabled);
    if !has_events && settings.stacks.iter().any(|stack| !stack.usage.is_empty()) {
        let message =
            "services.event_stores is empty, so report_usage tells nobody; list a store there, such as stdout";
        settings.warnings.push(message.to_string());
    }
}
