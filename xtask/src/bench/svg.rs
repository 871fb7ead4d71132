//! Plots as SVG inside a page: lines, dots, bars. Colours come from the page's style sheet (`--c0` to `--c7`, `--ink`, `--soft`), so that
//! a plot is readable on light and dark ground.

use std::fmt::Write;

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 330.0;
/// What a mark's label takes, about.
const LABEL_WIDTH: f64 = 38.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 48.0;
/// Colours that the style sheet has.
const COLOURS: usize = 8;
/// About so many marks along an axis.
const TICKS: f64 = 6.0;
/// A line of the legend.
const LEGEND_LINE: f64 = 15.0;
const LEGEND_GAP: f64 = 6.0;
/// Bars that lie: room for their names, for their numbers, and from one to the next.
const LENGTHS_LEFT: f64 = 250.0;
const LENGTHS_RIGHT: f64 = 70.0;
const LENGTH_STEP: f64 = 24.0;

/// How numbers become places along an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    from: f64,
    to: f64,
    is_log: bool,
}

impl Scale {
    /// From nothing to a round number that holds all of `values`.
    pub(crate) fn linear(values: impl Iterator<Item = f64>) -> Scale {
        let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let step = step(if most > 0.0 { most } else { 1.0 });
        Scale { from: 0.0, to: ((most / step).ceil() * step).max(step), is_log: false }
    }

    /// By powers, around all of `values` that are above zero.
    pub(crate) fn log(values: impl Iterator<Item = f64>) -> Scale {
        let good = values.filter(|value| value.is_finite() && *value > 0.0);
        let (least, most) = good.fold((f64::MAX, 0.0f64), |(least, most), value| (least.min(value), most.max(value)));
        if most <= 0.0 {
            return Scale { from: 1.0, to: 10.0, is_log: true };
        }
        // The ends are 1, 2 or 5 times a power of ten.
        let (from, to) = (round_down(least), round_up(most));
        Scale { from, to: if to > from { to } else { from * 10.0 }, is_log: true }
    }

    /// Where a value is: 0 at one end, 1 at the other.
    pub(crate) fn place(&self, value: f64) -> f64 {
        let place = match self.is_log {
            true => (value.max(self.from) / self.from).ln() / (self.to / self.from).ln(),
            false => (value - self.from) / (self.to - self.from),
        };
        place.clamp(0.0, 1.0)
    }

    /// The values that get a mark.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        if !self.is_log {
            let step = step(self.to);
            return (0..=(self.to / step).round() as usize).map(|n| n as f64 * step).collect();
        }
        let decades = (self.to / self.from).log10();
        let firsts: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let powers = self.from.log10().floor() as i32..=self.to.log10().ceil() as i32;
        let all = powers.flat_map(|power| firsts.iter().map(move |first| first * 10f64.powi(power)));
        let slack = 1.0 + 1e-9;
        all.filter(|tick| *tick >= self.from / slack && *tick <= self.to * slack).collect()
    }
}

/// 1, 2 or 5 times a power of ten, so that about [`TICKS`] of them make `most`.
fn step(most: f64) -> f64 {
    let rough = most / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let first = rough / power;
    let round = [1.0, 2.0, 5.0].into_iter().find(|round| first <= *round * (1.0 + 1e-9)).unwrap_or(10.0);
    round * power
}

fn round_down(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let fits = |first: &f64| first * power <= value * (1.0 + 1e-9);
    [5.0, 2.0].into_iter().find(fits).unwrap_or(1.0) * power
}

fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let fits = |first: &f64| first * power * (1.0 + 1e-9) >= value;
    [1.0, 2.0, 5.0].into_iter().find(fits).unwrap_or(10.0) * power
}

/// A number in as few characters as possible.
pub(crate) fn label(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, "G"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = match scaled.abs() {
        size if size >= 100.0 => return format!("{scaled:.0}{unit}"),
        size if size >= 10.0 => format!("{scaled:.1}"),
        _ => format!("{scaled:.3}"),
    };
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// What has a place on an axis.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) is_dashed: bool,
}

impl Series {
    pub(crate) fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.into(), points, is_dashed: false }
    }

    pub(crate) fn dashed(self) -> Series {
        Series { is_dashed: true, ..self }
    }
}

/// A plot of lines.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) x_log: bool,
    pub(crate) y_log: bool,
    pub(crate) series: Vec<Series>,
}

impl Plot<'_> {
    /// The plot, or nothing where there is nothing to be seen.
    pub(crate) fn draw(&self) -> String {
        let series: Vec<&Series> = self.series.iter().filter(|series| !series.points.is_empty()).collect();
        if series.is_empty() {
            return String::new();
        }
        let xs = || series.iter().flat_map(|series| series.points.iter().map(|point| point.0));
        let ys = || series.iter().flat_map(|series| series.points.iter().map(|point| point.1));
        let x = if self.x_log { Scale::log(xs()) } else { Scale::linear(xs()) };
        let y = if self.y_log { Scale::log(ys()) } else { Scale::linear(ys()) };
        // Where few values are, each gets its mark.
        let mut marks: Vec<f64> = xs().collect();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        let marks = if self.x_log && marks.len() <= 9 { marks } else { x.ticks() };
        let mut out = open(self.title, series.len());
        axes(&mut out, &x, &y, &marks, self.x, self.y);
        for (at, series) in series.iter().enumerate() {
            let colour = at % COLOURS;
            let places: Vec<(f64, f64)> =
                series.points.iter().map(|point| (across(x.place(point.0)), up(y.place(point.1)))).collect();
            let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let dash = if series.is_dashed { " stroke-dasharray=\"5 4\"" } else { "" };
            let _ = writeln!(
                out,
                "<polyline class=\"line\" style=\"stroke:var(--c{colour})\"{dash} points=\"{}\"/>",
                path.join(" ")
            );
            for ((x, y), (value_x, value_y)) in places.iter().zip(&series.points) {
                let name = escape(&series.name);
                let said = format!("{name}: {} at {}", label(*value_y), label(*value_x));
                let _ = writeln!(
                    out,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" style=\"fill:var(--c{colour})\"><title>{said}</title></circle>"
                );
            }
        }
        let names: Vec<(&str, bool)> = series.iter().map(|series| (series.name.as_str(), series.is_dashed)).collect();
        legend(&mut out, &names);
        out + "</svg>\n"
    }
}

/// Bars of equal width from the first step of a histogram on.
pub(crate) struct Bars<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    /// Where the first bar begins, and how wide each is.
    pub(crate) from: f64,
    pub(crate) width: f64,
    pub(crate) counts: Vec<f64>,
    /// Lines across, with their names.
    pub(crate) marks: Vec<(String, f64)>,
}

impl Bars<'_> {
    pub(crate) fn draw(&self) -> String {
        if self.counts.is_empty() {
            return String::new();
        }
        let to = self.from + self.width * self.counts.len() as f64;
        let furthest = self.marks.iter().map(|(_, at)| *at).fold(to, f64::max);
        let x = Scale { from: self.from, to: furthest, is_log: false };
        let y = Scale::linear(self.counts.iter().copied());
        let step = step(furthest - self.from);
        let first = (self.from / step).ceil() * step;
        let ticks: Vec<f64> =
            (0..20).map(|n| first + f64::from(n) * step).take_while(|tick| *tick <= furthest * (1.0 + 1e-9)).collect();
        let mut out = open(self.title, 0);
        axes(&mut out, &x, &y, &ticks, self.x, self.y);
        for (at, count) in self.counts.iter().enumerate() {
            let begin = self.from + self.width * at as f64;
            let (left, right) = (across(x.place(begin)), across(x.place(begin + self.width)));
            let top = up(y.place(*count));
            let said = format!("{} to {}: {}", label(begin), label(begin + self.width), label(*count));
            let (wide, high) = ((right - left - 1.0).max(0.5), up(0.0) - top);
            let _ = writeln!(
                out,
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{wide:.1}\" height=\"{high:.1}\" style=\"fill:var(--c0)\"><title>{said}</title></rect>"
            );
        }
        for (at, (name, value)) in self.marks.iter().enumerate() {
            let (place, low) = (across(x.place(*value)), TOP + 10.0 + LEGEND_LINE * at as f64);
            let (anchor, gap) = if place > WIDTH * 0.7 { ("end", -4.0) } else { ("start", 4.0) };
            let colour = (at + 1) % COLOURS;
            let _ = writeln!(
                out,
                "<line x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke-dasharray=\"4 3\" style=\"stroke:var(--c{colour})\"/>",
                up(0.0)
            );
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{low:.1}\" text-anchor=\"{anchor}\" style=\"fill:var(--c{colour})\">{} {}</text>",
                place + gap,
                escape(name),
                label(*value)
            );
        }
        out + "</svg>\n"
    }
}

/// Named numbers as bars that lie, the longest at the top.
pub(crate) struct Lengths<'a> {
    pub(crate) title: &'a str,
    /// Behind each number.
    pub(crate) unit: &'a str,
    pub(crate) lengths: Vec<(String, f64)>,
    /// Where a line goes down through all.
    pub(crate) mark: Option<f64>,
}

impl Lengths<'_> {
    /// The bars, or nothing where there is none.
    pub(crate) fn draw(&self) -> String {
        let mut lengths: Vec<&(String, f64)> = self.lengths.iter().filter(|(_, length)| length.is_finite()).collect();
        lengths.sort_by(|a, b| b.1.total_cmp(&a.1));
        if lengths.is_empty() {
            return String::new();
        }
        let scale = Scale::linear(lengths.iter().map(|(_, length)| *length).chain(self.mark));
        let (left, right) = (LENGTHS_LEFT, WIDTH - LENGTHS_RIGHT);
        let across = |value: f64| left + scale.place(value) * (right - left);
        let top = |at: usize| TOP + LENGTH_STEP * at as f64;
        let height = top(lengths.len()) + LEGEND_GAP;
        let title = escape(self.title);
        let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">\n");
        let _ = writeln!(out, "<text class=\"title\" x=\"10\" y=\"20\">{title}</text>");
        for (at, (name, length)) in lengths.iter().enumerate() {
            let (high, end) = (top(at), across(*length));
            let (wide, name, said) = ((end - left).max(0.5), escape(name), label(*length));
            let low = high + LENGTH_STEP * 0.6;
            let _ = writeln!(
                out,
                "<rect x=\"{left:.1}\" y=\"{high:.1}\" width=\"{wide:.1}\" height=\"{:.1}\" style=\"fill:var(--c0)\"><title>{name}: {said}</title></rect>",
                LENGTH_STEP * 0.75
            );
            let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{low:.1}\" text-anchor=\"end\">{name}</text>", left - 6.0);
            let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{low:.1}\">{said} {}</text>", end + 4.0, escape(self.unit));
        }
        if let Some(mark) = self.mark {
            let (place, low) = (across(mark), top(lengths.len()));
            let _ = writeln!(
                out,
                "<line x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{TOP}\" y2=\"{low:.1}\" stroke-dasharray=\"4 3\" style=\"stroke:var(--c1)\"/>"
            );
        }
        out + "</svg>\n"
    }
}

fn across(place: f64) -> f64 {
    LEFT + place * (WIDTH - LEFT - RIGHT)
}

fn up(place: f64) -> f64 {
    HEIGHT - BOTTOM - place * (HEIGHT - TOP - BOTTOM)
}

fn open(title: &str, names: usize) -> String {
    let height = HEIGHT + LEGEND_GAP + LEGEND_LINE * names.div_ceil(2) as f64;
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n", escape(title));
    let _ = writeln!(out, "<text class=\"title\" x=\"{LEFT}\" y=\"20\">{}</text>", escape(title));
    out
}

fn axes(out: &mut String, x: &Scale, y: &Scale, x_marks: &[f64], x_name: &str, y_name: &str) {
    for tick in y.ticks() {
        let (high, right) = (up(y.place(tick)), WIDTH - RIGHT);
        let _ = writeln!(out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{high:.1}\" y2=\"{high:.1}\"/>");
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            high + 4.0,
            label(tick)
        );
    }
    let bottom = up(0.0);
    let mut labelled = f64::NEG_INFINITY;
    for tick in x_marks {
        let place = across(x.place(*tick));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{bottom}\" y2=\"{}\"/>",
            bottom + 5.0
        );
        // One that lies close to the one before would be written over it.
        if place - labelled < LABEL_WIDTH {
            continue;
        }
        labelled = place;
        let _ = writeln!(
            out,
            "<text x=\"{place:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            label(*tick)
        );
    }
    let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
    let _ =
        writeln!(out, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>", HEIGHT - 12.0, escape(x_name));
    let centre = TOP + (HEIGHT - TOP - BOTTOM) / 2.0;
    let _ = writeln!(
        out,
        "<text x=\"14\" y=\"{centre}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {centre})\">{}</text>",
        escape(y_name)
    );
}

fn legend(out: &mut String, names: &[(&str, bool)]) {
    for (at, (name, is_dashed)) in names.iter().enumerate() {
        let left = LEFT + (at % 2) as f64 * (WIDTH - LEFT - RIGHT) / 2.0;
        let low = HEIGHT + LEGEND_GAP + LEGEND_LINE * (at / 2) as f64;
        let dash = if *is_dashed { " stroke-dasharray=\"5 4\"" } else { "" };
        let (colour, middle) = (at % COLOURS, low - 4.0);
        let _ = writeln!(
            out,
            "<line class=\"line\" x1=\"{left}\" x2=\"{}\" y1=\"{middle}\" y2=\"{middle}\"{dash} style=\"stroke:var(--c{colour})\"/>",
            left + 22.0
        );
        let _ = writeln!(out, "<text x=\"{}\" y=\"{low}\">{}</text>", left + 28.0, escape(name));
    }
}

/// Text that HTML takes as text.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_scale_begins_at_nothing_and_ends_at_a_round_number() {
        let scale = Scale::linear([3.0, 384_000.0, f64::NAN].into_iter());
        assert_eq!((scale.from, scale.to), (0.0, 400_000.0));
        assert_eq!(scale.ticks(), [0.0, 1e5, 2e5, 3e5, 4e5]);
        assert_eq!((scale.place(0.0), scale.place(2e5), scale.place(9e9)), (0.0, 0.5, 1.0));
        assert_eq!(Scale::linear([].into_iter()).ticks().first(), Some(&0.0), "nothing to show");
        let exact = Scale::linear([6.0].into_iter());
        assert_eq!((exact.to, exact.ticks().len()), (6.0, 7));
    }

    #[test]
    fn a_logarithmic_scale_has_equal_ways_for_equal_factors() {
        let scale = Scale::log([1.0, 256.0, 0.0].into_iter());
        assert_eq!((scale.from, scale.to), (1.0, 500.0));
        assert!((scale.place(20.0) - scale.place(2.0) - scale.place(10.0)).abs() < 1e-9);
        assert_eq!(scale.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]);
        assert_eq!(scale.place(0.0), 0.0, "what has no logarithm is at the end");
        let wide = Scale::log([3.0, 90_000.0].into_iter());
        assert_eq!((wide.from, wide.to), (2.0, 100_000.0));
        assert_eq!(wide.ticks(), [10.0, 100.0, 1000.0, 10_000.0, 100_000.0]);
        assert!(Scale::log([].into_iter()).ticks().len() > 1 && Scale::log([5.0].into_iter()).place(5.0) < 1e-9);
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> = [0.0, 0.25, 7.0, 20.0, 166.973, 1500.0, 40_000.0, 2.5e6, 1e9].map(label).to_vec();
        assert_eq!(shown, ["0", "0.25", "7", "20", "167", "1500", "40k", "2.5M", "1G"]);
    }

    fn plot(series: Vec<Series>) -> String {
        Plot { title: "a < b", x: "x", y: "y", x_log: true, y_log: false, series }.draw()
    }

    #[test]
    fn a_plot_stays_inside_its_frame_and_names_its_lines() {
        let out = plot(vec![
            Series::new("put", vec![(1.0, 10.0), (256.0, 300.0)]),
            Series::new("none", Vec::new()),
            Series::new("<echo>", vec![(64.0, 0.0)]).dashed(),
        ]);
        assert!(out.contains("a &lt; b") && out.contains("&lt;echo&gt;") && !out.contains("none"), "{out}");
        assert_eq!(out.matches("<circle").count(), 3);
        assert!(out.contains(&format!("points=\"{LEFT:.1},")), "the first point is at the left end: {out}");
        for line in out.lines().filter(|line| line.starts_with("<circle")) {
            let number = |name: &str| -> f64 {
                line.split(name)
                    .nth(1)
                    .and_then(|rest| rest.split('"').next())
                    .and_then(|text| text.parse().ok())
                    .unwrap()
            };
            let (x, y) = (number("cx=\""), number("cy=\""));
            assert!((LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y), "{line}");
        }
        assert_eq!(plot(Vec::new()), "");
    }

    #[test]
    fn marks_that_lie_close_share_a_label() {
        let out = plot(vec![Series::new("put", vec![(100.0, 1.0), (246_000.0, 2.0), (250_000.0, 3.0)])]);
        let labelled = |text: &str| out.contains(&format!("text-anchor=\"middle\">{text}</text>"));
        assert!(labelled("100") && labelled("246k") && !labelled("250k"), "{out}");
    }

    #[test]
    fn the_longest_length_is_at_the_top_and_all_stay_inside() {
        let lengths = vec![("etcd <3>".to_owned(), 15.0), ("zk".to_owned(), 30.0), ("none".to_owned(), f64::NAN)];
        let out = Lengths { title: "a > b", unit: "x", lengths, mark: Some(1.0) }.draw();
        let number = |line: &str, name: &str| -> f64 {
            line.split(name).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        };
        let bars: Vec<&str> = out.lines().filter(|line| line.starts_with("<rect")).collect();
        let [first, second] = bars[..] else { panic!("{out}") };
        assert!(first.contains("zk: 30") && second.contains("etcd &lt;3&gt;: 15") && out.contains("a &gt; b"), "{out}");
        assert!((number(first, "width=\"") / number(second, "width=\"") - 2.0).abs() < 0.01, "{out}");
        assert!(
            bars.iter().all(|bar| number(bar, " x=\"") + number(bar, "width=\"") <= WIDTH - LENGTHS_RIGHT),
            "{out}"
        );
        assert_eq!(Lengths { title: "t", unit: "", lengths: Vec::new(), mark: None }.draw(), "");
    }

    #[test]
    fn bars_are_as_high_as_their_counts() {
        let out = Bars {
            title: "t",
            x: "ms",
            y: "kills",
            from: 2.0,
            width: 1.0,
            counts: vec![1.0, 0.0, 4.0],
            marks: vec![("p99".into(), 12.0)],
        }
        .draw();
        let high = |at: usize| -> f64 {
            let bar = out.lines().filter(|line| line.starts_with("<rect")).nth(at).unwrap();
            bar.split("height=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        };
        assert!((high(2) / high(0) - 4.0).abs() < 0.05 && high(1) == 0.0, "{out}");
        assert!(out.contains("p99 12"), "{out}");
    }
}
