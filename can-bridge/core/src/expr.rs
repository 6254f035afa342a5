//! A small, safe evaluator for the `math` of a mapping: `floor((x * 40) - 100)`.
//!
//! Compiled once to at most [`OPS_MAX`] steps over a stack of [`STACK_MAX`] numbers: no recursion, no heap and
//! no endless loop when it runs. Division by zero and anything that is not a finite number give no value: the
//! sample is dropped. Rounding and `%` are Python's (half to even; sign of the divisor), because the mapping
//! files come from there.

use alloc::string::String;
use alloc::vec::Vec;

/// Most steps of one expression. The longest in the public mapping files has 12.
pub const OPS_MAX: usize = 64;

/// Deepest stack, and deepest nesting of parentheses and functions.
pub const STACK_MAX: usize = 32;

/// Longest text of an expression.
pub const TEXT_LEN_MAX: usize = 400;

/// Why a text is not an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expression {text:?}, character {at}: {why}")]
pub struct ExprError {
    /// The text, cut to [`TEXT_LEN_MAX`].
    pub text: String,
    /// Counted from 1.
    pub at: usize,
    /// What is wrong.
    pub why: &'static str,
}

impl ExprError {
    /// What the author can do.
    pub fn fix(&self) -> Option<String> {
        Some("use x, numbers, + - * / ^ % ( ) and floor, ceil, round, abs, min(a, b), max(a, b)".into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Push(f64),
    X,
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Pow,
    Neg,
    Floor,
    Ceil,
    Round,
    Abs,
    Min,
    Max,
}

impl Op {
    /// How many numbers it takes from the stack.
    const fn takes(self) -> usize {
        match self {
            Self::Push(_) | Self::X => 0,
            Self::Neg | Self::Floor | Self::Ceil | Self::Round | Self::Abs => 1,
            Self::Add | Self::Sub | Self::Mul | Self::Div | Self::Rem | Self::Pow | Self::Min | Self::Max => {
                2
            }
        }
    }

    /// Binding strength of an operator.
    const fn strength(self) -> u8 {
        match self {
            Self::Add | Self::Sub => 1,
            Self::Mul | Self::Div | Self::Rem => 2,
            Self::Neg => 3,
            _ => 4,
        }
    }
}

/// A compiled expression. Holding one proves that it runs within the limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    ops: Vec<Op>,
}

impl Expr {
    /// Compiles a text.
    ///
    /// # Errors
    /// [`ExprError`] names the place and the reason.
    pub fn new(text: &str) -> Result<Self, ExprError> {
        let located = |(at, why)| ExprError { text: text.chars().take(TEXT_LEN_MAX).collect(), at, why };
        if text.len() > TEXT_LEN_MAX {
            return Err(located((TEXT_LEN_MAX, "text is too long")));
        }
        let ops = Compiler::new(text).run().map_err(located)?;
        fits_stack(&ops).map_err(|why| located((text.len(), why)))?;
        Ok(Self { ops })
    }

    /// The value for `x`; `None` after a division by zero, or if the result is not a finite number.
    pub fn eval(&self, x: f64) -> Option<f64> {
        let mut stack = [0.0; STACK_MAX];
        let mut depth = 0usize;
        for op in &self.ops {
            let takes = op.takes();
            let right = *stack.get(depth.wrapping_sub(1)).unwrap_or(&0.0);
            let left = *stack.get(depth.wrapping_sub(2)).unwrap_or(&0.0);
            let result = apply(*op, x, left, right)?;
            depth = depth - takes + 1;
            *stack.get_mut(depth - 1)? = result;
        }
        stack.first().copied().filter(|value| value.is_finite())
    }
}

fn apply(op: Op, x: f64, left: f64, right: f64) -> Option<f64> {
    Some(match op {
        Op::Push(number) => number,
        Op::X => x,
        Op::Add => left + right,
        Op::Sub => left - right,
        Op::Mul => left * right,
        Op::Div | Op::Rem if right == 0.0 => return None,
        Op::Div => left / right,
        Op::Rem => {
            let rest = libm::fmod(left, right);
            if rest != 0.0 && (rest < 0.0) != (right < 0.0) { rest + right } else { rest }
        }
        Op::Pow => libm::pow(left, right),
        Op::Neg => -right,
        Op::Floor => libm::floor(right),
        Op::Ceil => libm::ceil(right),
        Op::Round => libm::rint(right),
        Op::Abs => libm::fabs(right),
        Op::Min => libm::fmin(left, right),
        Op::Max => libm::fmax(left, right),
    })
}

/// Follows the stack without numbers: never below zero or above the limit, one value at the end.
fn fits_stack(ops: &[Op]) -> Result<(), &'static str> {
    if ops.len() > OPS_MAX {
        return Err("too many steps");
    }
    let mut depth = 0usize;
    for op in ops {
        depth = depth.checked_sub(op.takes()).ok_or("an operand is missing")? + 1;
        if depth > STACK_MAX {
            return Err("too deep");
        }
    }
    if depth == 1 { Ok(()) } else { Err("an operator is missing") }
}

/// What waits on the operator stack.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Waiting {
    Operator(Op),
    Open,
    /// An open function call: commas seen so far.
    Call(Op, usize),
}

type Flaw = (usize, &'static str);

/// Shunting-yard: turns the text into steps in the order in which they run.
struct Compiler<'t> {
    text: &'t str,
    at: usize,
    ops: Vec<Op>,
    waiting: Vec<Waiting>,
    /// Whether a value just ended, so that an operator may follow.
    after_value: bool,
}

impl<'t> Compiler<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, at: 0, ops: Vec::new(), waiting: Vec::new(), after_value: false }
    }

    fn run(mut self) -> Result<Vec<Op>, Flaw> {
        while let Some(next) = self.rest().chars().next() {
            match next {
                ' ' | '\t' => self.at += 1,
                '0'..='9' | '.' => self.number()?,
                'a'..='z' => self.word()?,
                '(' => self.open()?,
                ')' => self.close()?,
                ',' => self.comma()?,
                _ => self.operator(next)?,
            }
            if self.waiting.len() > STACK_MAX || self.ops.len() > OPS_MAX {
                return self.flaw("too long or nested too deeply");
            }
        }
        if !self.after_value {
            return self.flaw("a value is missing");
        }
        while let Some(waiting) = self.waiting.pop() {
            match waiting {
                Waiting::Operator(op) => self.ops.push(op),
                Waiting::Open | Waiting::Call(..) => return self.flaw("a ')' is missing"),
            }
        }
        Ok(self.ops)
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn flaw<T>(&self, why: &'static str) -> Result<T, Flaw> {
        Err((self.at + 1, why))
    }

    fn value(&mut self, op: Op, len: usize) -> Result<(), Flaw> {
        if self.after_value {
            return self.flaw("an operator is missing");
        }
        self.ops.push(op);
        self.at += len;
        self.after_value = true;
        Ok(())
    }

    fn number(&mut self) -> Result<(), Flaw> {
        let rest = self.rest().as_bytes();
        let mut len = 0;
        while let Some(byte) = rest.get(len) {
            let exponent = |b: Option<&u8>| matches!(b, Some(b'e' | b'E'));
            let sign_of_exponent = matches!(byte, b'+' | b'-') && len > 0 && exponent(rest.get(len - 1));
            if !(byte.is_ascii_digit() || *byte == b'.' || exponent(Some(byte)) || sign_of_exponent) {
                break;
            }
            len += 1;
        }
        let parsed = self.rest().get(..len).and_then(|text| text.parse::<f64>().ok());
        match parsed.filter(|number| number.is_finite()) {
            Some(number) => self.value(Op::Push(number), len),
            None => self.flaw("not a number"),
        }
    }

    fn word(&mut self) -> Result<(), Flaw> {
        let rest = self.rest();
        let len = rest.bytes().position(|b| !b.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let op = match rest.get(..len).unwrap_or_default() {
            "x" => return self.value(Op::X, len),
            "floor" => Op::Floor,
            "ceil" => Op::Ceil,
            "round" => Op::Round,
            "abs" => Op::Abs,
            "min" => Op::Min,
            "max" => Op::Max,
            _ => return self.flaw("unknown name"),
        };
        let after = rest.get(len..).unwrap_or_default();
        let gap = after.len() - after.trim_start().len();
        if self.after_value || !after.trim_start().starts_with('(') {
            return self.flaw("a function needs an operator before and '(' after it");
        }
        self.waiting.push(Waiting::Call(op, 0));
        self.at += len + gap + 1;
        Ok(())
    }

    fn open(&mut self) -> Result<(), Flaw> {
        if self.after_value {
            return self.flaw("an operator is missing");
        }
        self.waiting.push(Waiting::Open);
        self.at += 1;
        Ok(())
    }

    /// Lets waiting operators run up to the innermost open parenthesis, which stays.
    fn unwind(&mut self) -> Result<(), Flaw> {
        if !self.after_value {
            return self.flaw("a value is missing");
        }
        while let Some(Waiting::Operator(op)) = self.waiting.last().copied() {
            self.ops.push(op);
            self.waiting.pop();
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Flaw> {
        self.unwind()?;
        match self.waiting.pop() {
            Some(Waiting::Open) => {}
            Some(Waiting::Call(op, commas)) if commas + 1 == op.takes() => self.ops.push(op),
            Some(Waiting::Call(..)) => return self.flaw("wrong number of arguments"),
            Some(Waiting::Operator(_)) | None => return self.flaw("')' without '('"),
        }
        self.at += 1;
        Ok(())
    }

    fn comma(&mut self) -> Result<(), Flaw> {
        self.unwind()?;
        match self.waiting.last_mut() {
            Some(Waiting::Call(_, commas)) => *commas += 1,
            _ => return self.flaw("',' outside min and max"),
        }
        self.at += 1;
        self.after_value = false;
        Ok(())
    }

    fn operator(&mut self, sign: char) -> Result<(), Flaw> {
        let op = match (sign, self.after_value) {
            ('-', false) => Op::Neg,
            ('+', false) => {
                self.at += 1;
                return Ok(());
            }
            ('+', true) => Op::Add,
            ('-', true) => Op::Sub,
            ('*', true) => Op::Mul,
            ('/', true) => Op::Div,
            ('%', true) => Op::Rem,
            ('^', true) => Op::Pow,
            ('*' | '/' | '%' | '^', false) => return self.flaw("a value is missing"),
            _ => return self.flaw("unknown character"),
        };
        // A minus before a value and `^` bind to the right, all else to the left.
        let stays = |other: Op| match op {
            Op::Neg => true,
            Op::Pow => other.strength() <= op.strength(),
            _ => other.strength() < op.strength(),
        };
        while let Some(Waiting::Operator(other)) = self.waiting.last().copied() {
            if stays(other) {
                break;
            }
            self.ops.push(other);
            self.waiting.pop();
        }
        self.waiting.push(Waiting::Operator(op));
        self.at += 1;
        self.after_value = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;
    use proptest::prelude::*;

    #[test]
    #[rustfmt::skip]
    fn expression_table() {
        //     expression                    x       value
        check("x",                           7.5,    "7.5");
        check("floor((x*40)-100)",           2.51,   "0");
        check("1+2*3",                       0.0,    "7");
        check("(1+2)*3",                     0.0,    "9");
        check("10-3-2",                      0.0,    "5");
        check("2^3^2",                       0.0,    "512");
        check("-x^2",                        3.0,    "-9");
        check("2^-1",                        0.0,    "0.5");
        check("--x",                         3.0,    "3");
        check("2*-x",                        3.0,    "-6");
        check("x/2/2",                       8.0,    "2");
        check("-7 % 3",                      0.0,    "2");
        check("7 % -3",                      0.0,    "-2");
        check("round(x)",                    2.5,    "2");
        check("ceil(x) + abs(-1)",           2.1,    "4");
        check("min(x, 3) * max (x,5)",       4.0,    "15");
        check("min(max(x,1),2)",             9.0,    "2");
        check("1e3 + 1.5E-1 + .5",           0.0,    "1000.65");
        check("+x",                          1.0,    "1");
        check("1/x",                         0.0,    "dropped");
        check("1 % x",                       0.0,    "dropped");
        check("(0-1)^0.5",                   0.0,    "dropped");
        check("x*1e308*10",                  1.0,    "dropped");
        check("",                            0.0,    "1: a value is missing");
        check("x x",                         0.0,    "3: an operator is missing");
        check("x(1)",                        0.0,    "2: an operator is missing");
        check("2 floor(x)",                  0.0,    "3: a function needs an operator before and '(' after it");
        check("(x",                          0.0,    "3: a ')' is missing");
        check("x)",                          0.0,    "2: ')' without '('");
        check("()",                          0.0,    "2: a value is missing");
        check("x+",                          0.0,    "3: a value is missing");
        check("*x",                          0.0,    "1: a value is missing");
        check("min(x)",                      0.0,    "6: wrong number of arguments");
        check("abs(x,1)",                    0.0,    "8: wrong number of arguments");
        check("(x,1)",                       0.0,    "3: ',' outside min and max");
        check("y",                           0.0,    "1: unknown name");
        check("__import__('os')",            0.0,    "1: unknown character");
        check("1.2.3",                       0.0,    "1: not a number");
        check("1e999",                       0.0,    "1: not a number");
    }

    #[track_caller]
    fn check(text: &str, x: f64, expected: &str) {
        let got = match Expr::new(text) {
            Ok(expr) => expr.eval(x).map_or("dropped".into(), |value| value.to_string()),
            Err(error) => alloc::format!("{}: {}", error.at, error.why),
        };
        assert_eq!(got, expected, "{text:?} at {x}");
    }

    #[test]
    fn size_and_depth_are_bounded() {
        let deep = |n: usize| alloc::format!("{}x{}", "(".repeat(n), ")".repeat(n));
        assert!(Expr::new(&deep(STACK_MAX)).is_ok());
        assert!(Expr::new(&deep(STACK_MAX + 1)).is_err());
        assert!(Expr::new(&"x+".repeat(40)).is_err());
        assert!(Expr::new(&"-".repeat(TEXT_LEN_MAX + 1)).is_err());
        // Right-associative powers pile up values: the stack is checked before anything runs.
        assert!(Expr::new(&["x"; 40].join("^")).is_err());
    }

    proptest! {
        #[test]
        fn foreign_text_neither_panics_nor_gives_infinity(text in "[-+*/%^(),. 0-9xefloorabsminx]{0,60}", x: f64) {
            if let Ok(expr) = Expr::new(&text) {
                prop_assert!(expr.eval(x).is_none_or(f64::is_finite));
            }
        }

        #[test]
        fn random_bytes_never_panic(text: String) {
            let _ = Expr::new(&text);
        }
    }
}
