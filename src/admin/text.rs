//! The text format of Prometheus, version 0.0.4: families of metrics, each with its samples.

use std::fmt::{Display, Write};

/// What a metric may do.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// It only grows.
    Counter,
    Gauge,
    Histogram,
}

/// Names and values of labels.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page in the making. A family is begun, then its samples follow.
#[derive(Default)]
pub struct Text {
    page: String,
    /// Of the family.
    name: &'static str,
}

impl Text {
    /// Begins a family; each name once on a page.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name;
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    pub fn sample(&mut self, labels: Labels, value: impl Display) {
        self.line("", labels, None, value);
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    /// A sample of a histogram. `buckets`: how many fell into each alone; the last one has no upper bound. `bounds` and
    /// `sum`: in the metric's unit.
    pub fn histogram(&mut self, labels: Labels, bounds: impl IntoIterator<Item = f64>, buckets: &[u64], sum: f64) {
        let bounds = bounds.into_iter().map(|bound| bound.to_string()).chain(["+Inf".to_owned()]);
        let mut count = 0;
        for (bound, bucket) in bounds.zip(buckets) {
            count += bucket;
            self.line("_bucket", labels, Some(&bound), count);
        }
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, count);
    }

    pub fn into_page(self) -> String {
        self.page
    }

    fn line(&mut self, suffix: &str, labels: Labels, bound: Option<&str>, value: impl Display) {
        let name = self.name;
        self.put(format_args!("{name}{suffix}"));
        let mut separator = '{';
        for (name, value) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            self.put(format_args!("{separator}{name}=\""));
            for c in value.chars() {
                match c {
                    '\n' => self.page.push_str("\\n"),
                    '\\' | '"' => self.page.extend(['\\', c]),
                    _ => self.page.push(c),
                }
            }
            self.page.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.page.push('}');
        }
        self.put(format_args!(" {value}\n"));
    }

    fn put(&mut self, text: std::fmt::Arguments) {
        self.page.write_fmt(text).expect("a string takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_written_as_prometheus_reads_it() {
        let mut text = Text::default();
        text.single("up_seconds", Kind::Gauge, "Help.", 1.5);
        text.family("a_total", Kind::Counter, "More help.");
        text.sample(&[("x", "1"), ("y", "a\"b\\c\nd")], 2);
        text.family("took_seconds", Kind::Histogram, "Time.");
        text.histogram(&[("x", "1")], [0.0005, 1.0], &[3, 0, 2], 0.25);
        let expected = r#"# HELP up_seconds Help.
# TYPE up_seconds gauge
up_seconds 1.5
# HELP a_total More help.
# TYPE a_total counter
a_total{x="1",y="a\"b\\c\nd"} 2
# HELP took_seconds Time.
# TYPE took_seconds histogram
took_seconds_bucket{x="1",le="0.0005"} 3
took_seconds_bucket{x="1",le="1"} 3
took_seconds_bucket{x="1",le="+Inf"} 5
took_seconds_sum{x="1"} 0.25
took_seconds_count{x="1"} 5
"#;
        assert_eq!(text.into_page(), expected);
    }
}
