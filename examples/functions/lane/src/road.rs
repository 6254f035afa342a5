//! What a grey picture says about the road: brightness, horizon, and lines that lead away from the car.
//!
//! Lines come from a Hough vote in which each edge pixel votes once, for the line along its own edge:
//! cheap enough for every frame, and steady enough to show that the picture was really looked at.

use crate::gray::Gray;
use serde::Serialize;

/// A Sobel gradient (|gx| + |gy|) from which on a pixel counts as an edge: about 40 grey levels.
const EDGE: i32 = 160;
/// A line leans at most this far from the vertical: beyond, it crosses the road rather than leads along it.
const MAX_LEAN: f32 = 2.0;
/// Vote cells: width in pixels at the lowest row, and in degrees of lean.
const CELL_X: f32 = 8.0;
const CELL_DEG: f32 = 4.0;
/// Cells of lean on either side of the vertical: atan(2) = 63.4 degrees.
const LEAN_CELLS: usize = 16;
/// At most so many lines are reported.
const MAX_LINES: usize = 4;
/// A line holds at least this share of all votes.
const MIN_STRENGTH: f32 = 0.02;
/// Rows on either side that are compared in the search for the horizon.
const HORIZON_ROWS: usize = 8;
/// Drop in mean brightness, in grey levels, from which on a row counts as the horizon.
const HORIZON_DROP: f32 = 8.0;

/// The answer of the function; coordinates in pixels from the top left corner.
#[derive(Serialize)]
pub struct Road {
    width: usize,
    height: usize,
    /// Mean brightness, 0 to 255.
    brightness: f32,
    /// Mean brightness of four bands of equal height, top first.
    bands: [f32; 4],
    /// Row at which the sky ends, if there is one.
    horizon: Option<usize>,
    /// Strongest first.
    lanes: Vec<Line>,
    /// Edge pixels in the lower half.
    edges: u32,
}

/// A straight line in the lower half of the picture.
#[derive(Serialize)]
struct Line {
    /// Where it meets the lowest row.
    x: f32,
    /// Lean from the vertical, positive to the right when going up.
    angle_deg: f32,
    /// Share of all votes, 0 to 1.
    strength: f32,
}

/// Looks at one picture.
pub fn analyse(image: &Gray) -> Road {
    let rows: Vec<f32> = (0..image.height).map(|y| mean(image.row(y))).collect();
    let mut votes = Votes::new(image.width);
    let edges = vote(image, &mut votes);
    Road {
        width: image.width,
        height: image.height,
        brightness: tenths(average(&rows)),
        bands: std::array::from_fn(|i| tenths(average(&rows[i * rows.len() / 4..(i + 1) * rows.len() / 4]))),
        horizon: horizon(&rows),
        lanes: votes.lines(),
        edges,
    }
}

/// The row in the upper two thirds below which the picture darkens most.
fn horizon(rows: &[f32]) -> Option<usize> {
    let last = (rows.len() * 2 / 3).min(rows.len().saturating_sub(HORIZON_ROWS));
    (HORIZON_ROWS..last)
        .map(|y| (y, average(&rows[y - HORIZON_ROWS..y]) - average(&rows[y..y + HORIZON_ROWS])))
        .filter(|(_, drop)| *drop >= HORIZON_DROP)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(y, _)| y)
}

/// Lets each edge pixel of the lower half vote; returns how many there were.
fn vote(image: &Gray, votes: &mut Votes) -> u32 {
    let mut edges = 0;
    for y in image.height / 2..image.height - 1 {
        let up = (image.height - 1 - y) as f32;
        for x in 1..image.width - 1 {
            let (gx, gy) = sobel(image, x, y);
            let strength = gx.abs() + gy.abs();
            if strength < EDGE {
                continue;
            }
            edges += 1;
            // The edge runs at a right angle to the gradient.
            let lean = gy as f32 / gx as f32;
            if lean.abs() <= MAX_LEAN {
                votes.add(x as f32 - lean * up, lean, strength as f32);
            }
        }
    }
    edges
}

/// Sobel gradient at (x, y), which must not lie on the border.
fn sobel(image: &Gray, x: usize, y: usize) -> (i32, i32) {
    let at = |row: &[u8], x: usize| i32::from(row[x]);
    let (above, here, below) = (image.row(y - 1), image.row(y), image.row(y + 1));
    let right = at(above, x + 1) + 2 * at(here, x + 1) + at(below, x + 1);
    let left = at(above, x - 1) + 2 * at(here, x - 1) + at(below, x - 1);
    let down = at(below, x - 1) + 2 * at(below, x) + at(below, x + 1);
    let top = at(above, x - 1) + 2 * at(above, x) + at(above, x + 1);
    (right - left, down - top)
}

/// Sums of weight, position and lean that fell into one cell.
#[derive(Clone, Copy, Default)]
struct Cell {
    weight: f32,
    x: f32,
    lean: f32,
}

/// The ballot: cells over position at the lowest row and lean.
struct Votes {
    columns: usize,
    cells: Vec<Cell>,
    total: f32,
}

impl Votes {
    fn new(width: usize) -> Self {
        let columns = (width as f32 / CELL_X).ceil() as usize;
        Self { columns, cells: vec![Cell::default(); columns * 2 * LEAN_CELLS], total: 0.0 }
    }

    /// A vote for a line that meets the lowest row outside the picture is dropped.
    fn add(&mut self, x: f32, lean: f32, weight: f32) {
        let column = (x / CELL_X).floor();
        let row = (lean.atan().to_degrees() / CELL_DEG).floor() + LEAN_CELLS as f32;
        if !(0.0..self.columns as f32).contains(&column) || !(0.0..2.0 * LEAN_CELLS as f32).contains(&row) {
            return;
        }
        let cell = &mut self.cells[row as usize * self.columns + column as usize];
        cell.weight += weight;
        cell.x += x * weight;
        cell.lean += lean * weight;
        self.total += weight;
    }

    /// Takes the strongest cell with its neighbours as a line, again and again.
    fn lines(mut self) -> Vec<Line> {
        let mut lines = Vec::new();
        while lines.len() < MAX_LINES {
            let Some(line) = self.take_strongest() else { break };
            lines.push(line);
        }
        lines
    }

    fn take_strongest(&mut self) -> Option<Line> {
        let (best, _) = self.cells.iter().enumerate().max_by(|a, b| a.1.weight.total_cmp(&b.1.weight))?;
        let mut sum = Cell::default();
        for at in self.neighbours(best) {
            let cell = std::mem::take(&mut self.cells[at]);
            sum = Cell { weight: sum.weight + cell.weight, x: sum.x + cell.x, lean: sum.lean + cell.lean };
        }
        let strength = sum.weight / self.total.max(1.0);
        (strength >= MIN_STRENGTH).then(|| Line {
            x: tenths(sum.x / sum.weight),
            angle_deg: tenths((sum.lean / sum.weight).atan().to_degrees()),
            strength: (strength * 1000.0).round() / 1000.0,
        })
    }

    /// Indices of the cells within one row and two columns: both edges of a painted line.
    fn neighbours(&self, at: usize) -> Vec<usize> {
        let (row, column) = (at / self.columns, at % self.columns);
        let rows = row.saturating_sub(1)..=(row + 1).min(2 * LEAN_CELLS - 1);
        let columns = column.saturating_sub(2)..=(column + 2).min(self.columns - 1);
        rows.flat_map(|r| columns.clone().map(move |c| (r, c))).map(|(r, c)| r * self.columns + c).collect()
    }
}

fn mean(pixels: &[u8]) -> f32 {
    pixels.iter().map(|&p| u32::from(p)).sum::<u32>() as f32 / pixels.len() as f32
}

fn average(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len().max(1) as f32
}

fn tenths(value: f32) -> f32 {
    (value * 10.0).round() / 10.0
}
