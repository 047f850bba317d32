#include "vmm/top/top_view.h"

#include <algorithm>
#include <iterator>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "vmm/text.h"

namespace quire {
namespace {

constexpr absl::string_view kSortNames[] = {"guest",   "state",   "operations", "faults",
                                            "reclaim", "balloon", "limit",      "memory"};
constexpr int kMinBar = 10;
constexpr int kMaxBar = 60;
constexpr char kCtrlC = '\x03';

constexpr absl::string_view kKeys[] = {"Keys",
                                       "  s          the next column to sort by",
                                       "  r          the other way round",
                                       "  p, space   pause, and go on",
                                       "  q, Ctrl-C  leave; the run goes on",
                                       "  ?          these lines"};

// Pieces of a line, as many as there are columns for. A piece that shows a cell has escapes, which take none.
class Fitted {
 public:
  explicit Fitted(const Terminal& terminal) : room_(terminal.columns - 1) {}

  Fitted& Add(absl::string_view text) { return Add(text, static_cast<int>(text.size())); }
  Fitted& Add(absl::string_view text, int columns) {
    if (columns > room_) room_ = 0;  // nothing after it either
    if (columns > room_) return *this;
    absl::StrAppend(&line_, text);
    room_ -= columns;
    return *this;
  }
  int room() const { return room_; }
  std::string Take() { return std::move(line_); }

 private:
  int room_;
  std::string line_;
};

std::string FormatMicroseconds(double us) {
  return us < 1000 ? absl::StrFormat("%.3g us", us) : absl::StrFormat("%.1f ms", us / 1000);
}

std::string FormatRate(double bytes) {
  return absl::StrCat(FormatSize(ByteCount::Bytes(static_cast<uint64_t>(bytes))), "/s");
}

std::string OrDash(ByteCount size) { return size == ByteCount() ? "-" : FormatSize(size); }

const TopGuest* Find(const std::vector<TopGuest>& guests, uint64_t id) {
  const auto found = std::find_if(guests.begin(), guests.end(), [&](const TopGuest& g) { return g.id == id; });
  return found == guests.end() ? nullptr : &*found;
}

ByteCount InMemory(const TopGuest& guest) { return guest.resident + guest.out + guest.shared; }

std::string Columns(absl::string_view guest, absl::string_view state, absl::string_view operations,
                    absl::string_view faults, absl::string_view reclaim, absl::string_view balloon,
                    absl::string_view limit) {
  return absl::StrFormat("%-10s %-8s %7s %8s %11s %8s %8s  ", guest, state, operations, faults, reclaim, balloon,
                         limit);
}

}  // namespace

absl::Span<const absl::string_view> TopSortNames() { return kSortNames; }

std::optional<TopSort> ParseTopSort(absl::string_view name) {
  const auto found = std::find(std::begin(kSortNames), std::end(kSortNames), name);
  if (found == std::end(kSortNames)) return std::nullopt;
  return static_cast<TopSort>(found - std::begin(kSortNames));
}

void TopView::Show(TopSample sample) {
  if (shown_++ > 0) before_ = std::exchange(now_, std::move(sample));
  if (shown_ == 1) now_ = std::move(sample);
}

bool TopView::Press(char key) {
  switch (key) {
    case 'q':
    case kCtrlC:
      return false;
    case 's':
      sort_ = static_cast<TopSort>((static_cast<size_t>(sort_) + 1) % std::size(kSortNames));
      break;
    case 'r':
      reversed_ = !reversed_;
      break;
    case 'p':
    case ' ':
      paused_ = !paused_;
      break;
    case '?':
      help_ = !help_;
      break;
    default:
      break;
  }
  return true;
}

double TopView::Rate(uint64_t now, uint64_t before) const {
  const double seconds = before_.has_value() ? now_.elapsed_seconds - before_->elapsed_seconds : 0;
  return seconds <= 0 || now < before ? 0 : static_cast<double>(now - before) / seconds;
}

std::vector<TopView::Row> TopView::Rows() const {
  std::vector<Row> rows;
  for (const TopGuest& guest : now_.guests) {
    Row row{.guest = &guest};
    if (const TopGuest* const before = before_.has_value() ? Find(before_->guests, guest.id) : nullptr) {
      row.operations = Rate(guest.operations, before->operations);
      row.faults = Rate(guest.faults, before->faults);
      row.reclaim = Rate(guest.reclaimed_pages, before->reclaimed_pages) * kPageSize;
    }
    rows.push_back(row);
  }
  std::stable_sort(rows.begin(), rows.end(),
                   [&](const Row& a, const Row& b) { return reversed_ ? Before(b, a) : Before(a, b); });
  return rows;
}

// The larger number first.
bool TopView::Before(const Row& a, const Row& b) const {
  switch (sort_) {
    case TopSort::kGuest:
      break;
    case TopSort::kState:
      return a.guest->state < b.guest->state;
    case TopSort::kOperations:
      return a.operations > b.operations;
    case TopSort::kFaults:
      return a.faults > b.faults;
    case TopSort::kReclaim:
      return a.reclaim > b.reclaim;
    case TopSort::kBalloon:
      return a.guest->balloon > b.guest->balloon;
    case TopSort::kLimit:
      return a.guest->pool_limit > b.guest->pool_limit;
    case TopSort::kMemory:
      return InMemory(*a.guest) > InMemory(*b.guest);
  }
  return a.guest->id < b.guest->id;
}

std::vector<std::string> TopView::Header(const Terminal& terminal) const {
  std::vector<std::string> lines;
  Fitted run(terminal);
  run.Add(
      absl::StrFormat("%s, accel=%s, %.1f s", Plural(now_.guests.size(), "guest"), now_.accel, now_.elapsed_seconds));
  const bool pool = now_.pool_limit > ByteCount();
  if (pool) run.Add(absl::StrCat(", merge=", now_.merge, ", huge=", now_.huge));
  if (paused_) run.Add("  PAUSED");
  lines.push_back(run.Take());
  Fitted cpus(terminal);
  cpus.Add("CPUs   ");
  for (const auto& [thread, seconds] : now_.cpu_seconds) {
    double used = 0;
    if (before_.has_value() && now_.elapsed_seconds > before_->elapsed_seconds) {
      for (const auto& [name, earlier] : before_->cpu_seconds) {
        if (name == thread) used = (seconds - earlier) / (now_.elapsed_seconds - before_->elapsed_seconds);
      }
    }
    cpus.Add(absl::StrFormat("%s %.2f  ", thread, std::max(used, 0.0)));
  }
  if (!pool) {
    lines.push_back(cpus.Take());
    return lines;
  }
  const std::vector<std::pair<const char*, BarPart>> parts = {{"resident", {Fill::kResident, now_.resident}},
                                                              {"out", {Fill::kOut, now_.out}},
                                                              {"shared", {Fill::kShared, now_.shared}},
                                                              {"compressed", {Fill::kCompressed, now_.compressed}},
                                                              {"wired", {Fill::kWired, now_.wired}}};
  const std::string all = absl::StrCat(" of ", FormatSize(now_.pool_limit), ", ", FormatSize(now_.free), " free");
  const int width = std::min(terminal.columns - 1 - 7 - static_cast<int>(all.size()), kMaxBar);
  Fitted bar(terminal), legend(terminal);
  bar.Add("pool   ");
  legend.Add("       ");
  std::vector<BarPart> sizes;
  for (const auto& [name, part] : parts) {
    sizes.push_back(part);
    if (part.size == ByteCount()) continue;
    const std::string text = absl::StrCat(" ", name, " ", FormatSize(part.size), "  ");
    legend.Add(absl::StrCat(Cell(part.fill, terminal), text), 1 + static_cast<int>(text.size()));
  }
  if (width >= kMinBar) bar.Add(Bar(sizes, now_.pool_limit, width, terminal), width).Add(all);
  lines.push_back(bar.Take());
  lines.push_back(legend.Take());
  const ByteCount in = now_.resident + now_.out;
  lines.push_back(Fitted(terminal)
                      .Add(absl::StrCat("saved  ", FormatSize(now_.saved), " by merging"))
                      .Add(absl::StrFormat("; by 2 MiB: %s of %s (%.0f%%)", FormatSize(now_.blocks), FormatSize(in),
                                           in == ByteCount() ? 0 : 100 * now_.blocks.in_mib() / in.in_mib()))
                      .Take());
  const TopSample& before = before_.has_value() ? *before_ : now_;
  lines.push_back(Fitted(terminal)
                      .Add(absl::StrCat("swap   ", FormatRate(Rate(now_.pages_out, before.pages_out) * kPageSize),
                                        " out, ", FormatRate(Rate(now_.pages_in, before.pages_in) * kPageSize), " in"))
                      .Take());
  lines.push_back(Fitted(terminal)
                      .Add(absl::StrCat("faults ", FormatShort(Rate(now_.faults, before.faults)), "/s"))
                      .Add(absl::StrCat("; of all, median ", FormatMicroseconds(now_.p50_us), ", 99th percentile ",
                                        FormatMicroseconds(now_.p99_us)))
                      .Take());
  lines.push_back(cpus.Take());
  return lines;
}

std::string TopView::Heading(const Terminal& terminal) const {
  std::string text =
      absl::StrCat(Columns("guest", "state", "ops/s", "faults/s", "reclaim", "balloon", "limit"), "memory");
  if (terminal.interactive) absl::StrAppend(&text, "  (by ", kSortNames[static_cast<size_t>(sort_)], "; ? for keys)");
  if (static_cast<int>(text.size()) >= terminal.columns) text.resize(static_cast<size_t>(terminal.columns - 1));
  return text;
}

std::string TopView::Line(const Row& row, const Terminal& terminal) const {
  const TopGuest& guest = *row.guest;
  // A name that came from elsewhere may be of any length.
  std::string text = Columns(guest.name.substr(0, 10), guest.mismatched_pages > 0 ? "WRONG" : guest.state,
                             FormatShort(row.operations), FormatShort(row.faults), FormatRate(row.reclaim),
                             guest.balloon.has_value() ? FormatSize(*guest.balloon) : "-", OrDash(guest.pool_limit));
  const int room = terminal.columns - 1 - static_cast<int>(text.size());
  if (room < kMinBar) {
    text.resize(std::min(text.size(), static_cast<size_t>(terminal.columns - 1)));
    return text;
  }
  return text + Bar({{Fill::kResident, guest.resident},
                     {Fill::kOut, guest.out},
                     {Fill::kShared, guest.shared},
                     {Fill::kCompressed, guest.compressed}},
                    guest.memory, std::min(room, kMaxBar), terminal);
}

std::vector<std::string> TopView::Lines(const Terminal& terminal) const {
  std::vector<std::string> lines;
  if (help_) {
    for (const absl::string_view line : kKeys) lines.push_back(Fitted(terminal).Add(line).Take());
    lines.emplace_back();
  }
  for (std::string& line : Header(terminal)) lines.push_back(std::move(line));
  lines.emplace_back();
  lines.push_back(Heading(terminal));
  const size_t most = static_cast<size_t>(std::max(terminal.rows - 1, 1));
  const std::vector<Row> rows = Rows();
  size_t shown = rows.size();
  if (terminal.interactive && lines.size() + shown > most) shown = most - std::min(lines.size() + 1, most);
  for (size_t i = 0; i < shown; ++i) lines.push_back(Line(rows[i], terminal));
  if (shown < rows.size()) {
    const std::string more = absl::StrCat("and ", Plural(rows.size() - shown, "more guest"));
    lines.push_back(Fitted(terminal).Add(more).Take());
  }
  if (terminal.interactive && lines.size() > most) lines.resize(most);
  return lines;
}

}  // namespace quire
