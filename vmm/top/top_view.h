// What `quire top` draws: a header with the run, and a line a guest.
#ifndef QUIRE_VMM_TOP_TOP_VIEW_H_
#define QUIRE_VMM_TOP_TOP_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "vmm/terminal.h"
#include "vmm/top/top_sample.h"

namespace quire {

enum class TopSort : uint8_t { kGuest, kState, kOperations, kFaults, kReclaim, kBalloon, kLimit, kMemory };

absl::Span<const absl::string_view> TopSortNames();  // in the order of TopSort
std::optional<TopSort> ParseTopSort(absl::string_view name);

// Belongs to one thread.
class TopView {
 public:
  explicit TopView(TopSort sort = TopSort::kGuest) : sort_(sort) {}

  // The run as it is now. Rates are those since the one before; there are none of the first.
  void Show(TopSample sample);
  // False: the user wants to leave.
  bool Press(char key);
  bool paused() const { return paused_; }

  // At most terminal.rows - 1 lines if it is interactive, each of fewer columns than it has, without line breaks.
  std::vector<std::string> Lines(const Terminal& terminal) const;

 private:
  struct Row {
    const TopGuest* guest;
    double operations = 0;  // per second, as the others
    double faults = 0;
    double reclaim = 0;  // bytes
  };

  // Per second since the sample before.
  double Rate(uint64_t now, uint64_t before) const;
  std::vector<Row> Rows() const;
  bool Before(const Row& a, const Row& b) const;
  std::vector<std::string> Header(const Terminal& terminal) const;
  std::string Heading(const Terminal& terminal) const;
  std::string Line(const Row& row, const Terminal& terminal) const;

  TopSort sort_;
  bool reversed_ = false;
  bool paused_ = false;
  bool help_ = false;
  TopSample now_;
  std::optional<TopSample> before_;
  size_t shown_ = 0;  // samples
};

}  // namespace quire

#endif  // QUIRE_VMM_TOP_TOP_VIEW_H_
