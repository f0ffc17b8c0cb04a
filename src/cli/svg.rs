//! Plots as SVG: texts, lines and dots on a white ground.

/// An SVG file on its way.
pub(crate) struct Canvas {
    width: f64,
    height: f64,
    parts: String,
}

impl Canvas {
    pub(crate) fn new(width: f64, height: f64, title: &str) -> Self {
        let mut canvas = Self { width, height, parts: String::new() };
        canvas.styled(10.0, 22.0, title, "font-weight=\"bold\"");
        canvas
    }

    pub(crate) fn styled(&mut self, x: f64, y: f64, text: &str, style: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.parts += &format!(
            "<text x=\"{x:.0}\" y=\"{y:.0}\" font-family=\"sans-serif\" font-size=\"13\" {style}>{text}</text>\n"
        );
    }

    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str) {
        self.parts += &format!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{color}\"/>\n",
            from.0, from.1, to.0, to.1
        );
    }

    pub(crate) fn path(&mut self, points: &[(f64, f64)], color: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.parts += &format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>\n",
            points.join(" ")
        );
    }

    pub(crate) fn dot(&mut self, x: f64, y: f64, color: &str) {
        self.parts += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{color}\"/>\n");
    }

    pub(crate) fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, color: &str) {
        self.parts += &format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{color}\"/>\n"
        );
    }

    pub(crate) fn finish(self) -> String {
        let (w, h) = (self.width, self.height);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\">\n<rect width=\"{w}\" height=\"{h}\" fill=\"white\"/>\n{}</svg>\n",
            self.parts
        )
    }
}
