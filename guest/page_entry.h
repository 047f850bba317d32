// One page of a guest's memory map: 8 bytes.
//
//    63              48 47                                      8 7     4 3    0
//   +------------------+-----------------------------------------+-------+------+
//   |        0         |        frame number or swap slot        | flags | state|
//   +------------------+-----------------------------------------+-------+------+
//                                                                  |
//                                                                  bit 4: incompressible (out only)
//
// docs/page_states.md draws the transitions and says who may make them.
#ifndef QUIRE_GUEST_PAGE_ENTRY_H_
#define QUIRE_GUEST_PAGE_ENTRY_H_

#include <cstdint>

#include "base/check.h"
#include "base/units.h"
#include "guest/swap/swap_slot.h"

namespace quire {

enum class PageState : uint8_t {
  kAbsent,     // reads as zero, has no frame; the all-zero entry
  kResident,   // has a frame, which a secondary MMU may map
  kOut,        // has its frame still, but no secondary MMU maps it: second chance
  kInTransit,  // out, and a copy of it is being stored; a fault takes it back
  kSwapped,    // has a slot in the swap store and no frame
  kPoisoned,   // its content is lost; the guest has been stopped
};
inline constexpr int kPageStates = 6;

class PageEntry {
 public:
  constexpr PageEntry() = default;

  static constexpr PageEntry Absent() { return PageEntry(); }
  static constexpr PageEntry Resident(FrameNumber frame) { return PageEntry(PageState::kResident, frame.value()); }
  static constexpr PageEntry Out(FrameNumber frame) { return PageEntry(PageState::kOut, frame.value()); }
  static constexpr PageEntry InTransit(FrameNumber frame) { return PageEntry(PageState::kInTransit, frame.value()); }
  static PageEntry WithFrame(PageState state, FrameNumber frame) {
    const PageEntry entry(state, frame.value());
    QUIRE_CHECK(entry.has_frame());
    return entry;
  }
  static constexpr PageEntry Swapped(SwapSlot slot) { return PageEntry(PageState::kSwapped, slot.value()); }
  static constexpr PageEntry Poisoned() { return PageEntry(PageState::kPoisoned, 0); }

  constexpr PageState state() const { return static_cast<PageState>(bits_ & kStateMask); }
  constexpr bool has_frame() const {
    return state() == PageState::kResident || state() == PageState::kOut || state() == PageState::kInTransit;
  }
  FrameNumber frame() const {
    QUIRE_CHECK(has_frame());
    return FrameNumber(payload());
  }
  SwapSlot slot() const {
    QUIRE_CHECK(state() == PageState::kSwapped);
    return SwapSlot(static_cast<uint32_t>(payload()));
  }

  // The page was tried and does not compress: not worth another try until it has been touched again.
  constexpr bool incompressible() const { return (bits_ & kIncompressible) != 0; }
  constexpr PageEntry AsIncompressible() const {
    PageEntry entry = *this;
    entry.bits_ |= kIncompressible;
    return entry;
  }

  friend constexpr bool operator==(PageEntry, PageEntry) = default;

 private:
  static constexpr uint64_t kStateMask = 0xf;
  static constexpr uint64_t kIncompressible = 1 << 4;
  static constexpr int kPayloadShift = 8;
  static constexpr int kPayloadBits = 40;

  constexpr PageEntry(PageState state, uint64_t payload)
      : bits_(static_cast<uint64_t>(state) | payload << kPayloadShift) {}
  constexpr uint64_t payload() const { return bits_ >> kPayloadShift & ((uint64_t{1} << kPayloadBits) - 1); }

  uint64_t bits_ = 0;
};

static_assert(sizeof(PageEntry) == 8, "one entry a page, 0.2 % of the guest's memory");
static_assert(PageEntry::Absent() == PageEntry(), "a fresh map is absent everywhere");

}  // namespace quire

#endif  // QUIRE_GUEST_PAGE_ENTRY_H_
