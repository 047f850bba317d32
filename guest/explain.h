// Why a page of a guest is or is not in memory, mapped by 2 MiB, and merged: for people who ask a run.
#ifndef QUIRE_GUEST_EXPLAIN_H_
#define QUIRE_GUEST_EXPLAIN_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/units.h"
#include "guest/memory_manager.h"
#include "guest/page_entry.h"
#include "guest/swap/swap_space.h"

namespace quire {

// What was so a moment ago, and may have changed since.
struct Explanation {
  unsigned guest = 0;
  Gfn gfn;
  PageState state = PageState::kAbsent;
  std::optional<FrameNumber> frame = {};  // its own, or the one that it shares
  uint32_t sharers = 0;                   // of that: pages, this one included; 0: it is not shared
  // Where its content is stored, or a copy of it that may be out of date.
  std::optional<SwapSpace::SlotFacts> stored = {};
  bool zero = false;                                   // it has a frame, and that is all zeros
  bool whole = false;                                  // its block is
  std::array<uint16_t, kPageStates> block_pages = {};  // of its block, in each state
  int skipped_passes = 0;                              // of the merger, to come

  // The answers: one or a few sentences each, with full stops.
  std::string residence = {};
  std::string huge = {};
  std::string merging = {};
  // The same for scripts, in the words of the report's `refused`; empty: it was not refused, or it is whole or merged.
  std::string huge_refused = {};
  std::string merge_refused = {};
};

// As docs/page_states.md names it.
absl::string_view Name(PageState state);

// `guest` is one of the manager's, and stays. May wait for the merger's block in hand. Error: OutOfRange, the guest has
// no such page.
absl::StatusOr<Explanation> Explain(MemoryManager& manager, GuestMemory& guest, Gfn gfn);

}  // namespace quire

#endif  // QUIRE_GUEST_EXPLAIN_H_
