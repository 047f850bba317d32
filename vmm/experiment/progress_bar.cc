#include "vmm/experiment/progress_bar.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace quire {
namespace {

// Starting and ending guests, filling their memory, making the host ready: until a run has shown how long that takes.
constexpr double kOverhead = 4;  // seconds
constexpr int kCells = 24;

std::string Duration(double seconds) {
  const int64_t whole = std::llround(seconds);
  if (whole < 100) return absl::StrCat(whole, " s");
  if (whole < 100 * 60) return absl::StrCat((whole + 30) / 60, " min");
  return absl::StrFormat("%.1f h", seconds / 3600);
}

// As many columns of `line` as there are; each character takes one.
std::string Cut(absl::string_view line, int columns) {
  size_t end = 0;
  while (end < line.size() && columns-- > 0) {
    ++end;
    while (end < line.size() && (static_cast<unsigned char>(line[end]) & 0xc0) == 0x80) ++end;
  }
  return std::string(line.substr(0, end));
}

// Words of the experiment's file: they may hold anything.
std::string Printable(absl::string_view text) {
  std::string printable(text);
  for (char& c : printable) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) c = '?';
  }
  return printable;
}

std::string Cells(double share, const Terminal& terminal) {
  const int full = static_cast<int>(share * kCells);
  std::string cells;
  for (int i = 0; i < kCells; ++i) {
    cells += terminal.unicode ? (i < full ? "█" : "░") : (i < full ? "#" : ".");
  }
  return cells;
}

}  // namespace

void ProgressBar::Expect(double seconds) { expected_.push_back(seconds + kOverhead); }

void ProgressBar::Begin(absl::string_view run) {
  run_ = Printable(run);
  run_start_ = clock_.Now();
  ++begun_;
  if (terminal_().interactive) return Update(0);
  out_ << absl::StrFormat("%d of %d  %s  (about %s left)\n", begun_, expected_.size(), run_, Duration(SecondsLeft(0)))
       << std::flush;
}

double ProgressBar::SecondsLeft(double seconds_of_this) const {
  const double slower = expected_of_done_ > 0 ? took_ / expected_of_done_ : 1;
  double left = 0;
  for (size_t i = begun_; i < expected_.size(); ++i) left += expected_[i] * slower;
  if (begun_ > 0) left += std::max(expected_[begun_ - 1] * slower - seconds_of_this, 0.0);
  return left;
}

std::string ProgressBar::Line(double seconds) const {
  const double left = SecondsLeft(seconds);
  const double passed = absl::ToDoubleSeconds(clock_.Now() - start_);
  return absl::StrFormat("%s  %d of %d, about %s left  %s", Cells(passed / std::max(passed + left, 1e-9), terminal_()),
                         begun_, expected_.size(), Duration(left), run_);
}

void ProgressBar::Update(double seconds) {
  const Terminal terminal = terminal_();
  if (!terminal.interactive) return;
  out_ << "\r" << Cut(Line(seconds), std::max(terminal.columns - 1, 1)) << "\x1b[K" << std::flush;
  drawn_ = true;
}

void ProgressBar::End(absl::string_view remark) {
  took_ += absl::ToDoubleSeconds(clock_.Now() - run_start_);
  expected_of_done_ += expected_[begun_ - 1];
  if (remark.empty()) return;
  Clear();
  out_ << remark << "\n" << std::flush;
}

void ProgressBar::Clear() {
  if (drawn_) out_ << "\r\x1b[K" << std::flush;
  drawn_ = false;
}

}  // namespace quire
