//! Bars as SVG: a median with its smallest and largest, ours first.

use std::fmt::Write as _;

use crate::spread::{Spread, number};

/// One bar.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: Spread,
    pub(crate) ours: bool,
}

const WIDTH: f64 = 760.0;
const LABELS: f64 = 250.0;
const NUMBERS: f64 = 130.0;
const ROW: f64 = 30.0;
const TITLE: f64 = 34.0;

/// Bars from 0, the longest of them as wide as there is room.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
    let room = WIDTH - LABELS - NUMBERS;
    let most = bars.iter().map(|bar| bar.value.max).fold(f64::MIN_POSITIVE, f64::max);
    let height = TITLE + ROW * bars.len() as f64 + 6.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"22\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    );
    for (nth, bar) in bars.iter().enumerate() {
        let middle = TITLE + ROW * (nth as f64 + 0.5);
        let at = |value: f64| LABELS + room * value / most;
        let Spread { min, median, max } = bar.value;
        let fill = if bar.ours { "#2166ac" } else { "#b0b0b0" };
        // Writing to a string never fails.
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LABELS}\" y=\"{:.1}\" width=\"{:.1}\" height=\"16\" fill=\"{fill}\"/>\n\
             <path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"#000000\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
            LABELS - 8.0,
            middle + 4.0,
            escaped(&bar.label),
            middle - 8.0,
            at(median) - LABELS,
            at(min),
            at(max),
            at(max) + 8.0,
            middle + 4.0,
            number(median),
        );
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_median_and_text_cannot_break_out() {
        let bar = |label: &str, median| Bar {
            label: label.into(),
            value: Spread { min: median, median, max: median },
            ours: median > 5.0,
        };
        let svg = bars("a & b", &[bar("<ours>", 10.0), bar("theirs", 5.0)]);
        assert!(svg.contains("width=\"380.0\"") && svg.contains("width=\"190.0\""), "{svg}");
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;ours&gt;") && !svg.contains("<ours>"));
    }
}
