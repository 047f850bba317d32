#include "vmm/progress.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "vmm/text.h"

namespace quire {
namespace {

constexpr size_t kMaxLines = 16;  // guests named one by one where nothing is redrawn
constexpr int kMinBar = 10;
constexpr int kMaxBar = 40;

std::string Columns(absl::string_view name, absl::string_view state, absl::string_view rate, absl::string_view resident,
                    absl::string_view out, absl::string_view compressed, absl::string_view faults) {
  return absl::StrFormat("%-9s %-8s %7s %9s %9s %10s %7s  ", name, state, rate, resident, out, compressed, faults);
}

std::string Times(const Snapshot& snapshot) {
  if (snapshot.duration == absl::ZeroDuration()) {
    return absl::StrFormat("%.1f s", absl::ToDoubleSeconds(snapshot.elapsed));
  }
  return absl::StrFormat("%.1f of %g s", absl::ToDoubleSeconds(snapshot.elapsed),
                         absl::ToDoubleSeconds(snapshot.duration));
}

std::string Mismatches(const GuestSnapshot& guest) {
  if (guest.mismatched_pages == 0) return "";
  return absl::StrCat(", ", Plural(guest.mismatched_pages, "page"), " WRONG");
}

std::string PlainLine(const Snapshot& snapshot, const GuestSnapshot& guest, double rate) {
  return absl::StrCat(Times(snapshot), "  ", guest.name, " ", Name(guest.state), ": ", FormatShort(rate),
                      " operations/s, resident ", FormatSize(guest.resident), ", out ", FormatSize(guest.out),
                      ", compressed ", FormatSize(guest.compressed), ", faults ", FormatCount(guest.faults),
                      Mismatches(guest), "\n");
}

std::string PoolUse(const Snapshot& snapshot) {
  return absl::StrCat(FormatSize(snapshot.pool_used), " of ", FormatSize(snapshot.pool_limit));
}

std::string AndMore(size_t guests) { return guests == 0 ? "" : absl::StrCat("and ", Plural(guests, "more guest")); }

// `text` is ASCII.
std::string Cut(std::string text, int columns) {
  if (text.size() > static_cast<size_t>(columns)) text.resize(static_cast<size_t>(columns));
  return text;
}

}  // namespace

const char* Name(GuestSnapshot::State state) {
  switch (state) {
    case GuestSnapshot::State::kWaiting:
      return "waiting";
    case GuestSnapshot::State::kFilling:
      return "filling";
    case GuestSnapshot::State::kRunning:
      return "running";
    case GuestSnapshot::State::kFinished:
      return "finished";
    case GuestSnapshot::State::kStopped:
      return "stopped";
  }
  return "";
}

void ProgressPrinter::Update(const Snapshot& snapshot) {
  MeasureRates(snapshot);
  const Terminal terminal = terminal_();
  if (terminal.interactive) {
    Redraw(Table(snapshot, terminal));
  } else if (snapshot.elapsed >= next_lines_) {
    PrintLines(snapshot);
    next_lines_ = snapshot.elapsed + kLineInterval;
  }
  out_.flush();
}

void ProgressPrinter::ShowLine(absl::string_view line) {
  // The next table is drawn below it.
  Clear();
  out_ << line << "\n" << std::flush;
}

void ProgressPrinter::Clear() {
  if (drawn_ > 0) out_ << absl::StrFormat("\x1b[%dA\x1b[J", drawn_) << std::flush;
  drawn_ = 0;
}

void ProgressPrinter::MeasureRates(const Snapshot& snapshot) {
  operations_.resize(snapshot.guests.size());
  rates_.resize(snapshot.guests.size());
  const double seconds = absl::ToDoubleSeconds(snapshot.elapsed - measured_);
  if (seconds <= 0) return;
  // Half of the old rate stays: five samples a second would flicker.
  const double kept = measured_ == absl::ZeroDuration() ? 0 : 0.5;
  for (size_t i = 0; i < rates_.size(); ++i) {
    const uint64_t done = snapshot.guests[i].operations - operations_[i];
    rates_[i] = kept * rates_[i] + (1 - kept) * static_cast<double>(done) / seconds;
    operations_[i] = snapshot.guests[i].operations;
  }
  measured_ = snapshot.elapsed;
}

std::vector<std::string> ProgressPrinter::Table(const Snapshot& snapshot, const Terminal& terminal) const {
  // The heading, the pool, "and n more" and the line under the table are not guests.
  const size_t rows = static_cast<size_t>(std::max(1, terminal.rows - 4));
  const size_t shown = std::min(snapshot.guests.size(), rows);
  std::vector<std::string> lines;
  lines.push_back(Cut(Columns("guest", "", "ops/s", "resident", "out", "compressed", "faults"), terminal.columns - 1));
  for (size_t i = 0; i < shown; ++i) lines.push_back(Row(snapshot.guests[i], rates_[i], terminal));
  if (shown < snapshot.guests.size()) lines.push_back(AndMore(snapshot.guests.size() - shown));
  std::string last = Times(snapshot);
  if (snapshot.pool_limit > ByteCount()) absl::StrAppend(&last, ", pool ", PoolUse(snapshot));
  lines.push_back(Cut(last, terminal.columns - 1));
  return lines;
}

std::string ProgressPrinter::Row(const GuestSnapshot& guest, double rate, const Terminal& terminal) const {
  const std::string state = guest.mismatched_pages > 0 ? "WRONG" : Name(guest.state);
  const std::string text =
      Columns(guest.name, state, FormatShort(rate), FormatSize(guest.resident), FormatSize(guest.out),
              FormatSize(guest.compressed), FormatShort(static_cast<double>(guest.faults)));
  const int room = terminal.columns - 1 - static_cast<int>(text.size());
  if (room < kMinBar) return Cut(text, terminal.columns - 1);
  return text + Bar({{Fill::kResident, guest.resident},
                     {Fill::kOut, guest.out},
                     {Fill::kShared, guest.shared},
                     {Fill::kCompressed, guest.compressed}},
                    guest.memory, std::min(room, kMaxBar), terminal);
}

void ProgressPrinter::Redraw(const std::vector<std::string>& lines) {
  if (drawn_ > 0) out_ << absl::StrFormat("\x1b[%dA", drawn_);
  for (const std::string& line : lines) out_ << line << "\x1b[K\n";
  out_ << "\x1b[J";
  drawn_ = lines.size();
}

void ProgressPrinter::PrintLines(const Snapshot& snapshot) {
  const size_t shown = std::min(snapshot.guests.size(), kMaxLines);
  for (size_t i = 0; i < shown; ++i) out_ << PlainLine(snapshot, snapshot.guests[i], rates_[i]);
  const std::string more = AndMore(snapshot.guests.size() - shown);
  if (!more.empty()) out_ << Times(snapshot) << "  " << more << "\n";
  if (snapshot.pool_limit > ByteCount()) out_ << Times(snapshot) << "  pool: " << PoolUse(snapshot) << "\n";
}

}  // namespace quire
