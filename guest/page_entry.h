// One page of a guest's memory map: 8 bytes.
//
//    63                            32 31                          4   3    2    0
//   +--------------------------------+-----------------------------+-----+-------+
//   |       slot or link, or 0       |        frame number         |  i  | state |
//   +--------------------------------+-----------------------------+-----+-------+
//
//   i      incompressible (out only)
//   slot   in the swap store, plus one: of a page without a frame its content, of a page with one a copy that was kept
//          when it came back (SwapSpace::Keep), which may be out of date
//   link   of a page that shares a frame: its place among those that do (SharedFrames); of an inherited page, plus one:
//          its place among those who may map the template's page (Inheritors), or where that was
//
// docs/page_states.md draws the transitions and says who may make them.
#ifndef QUIRE_GUEST_PAGE_ENTRY_H_
#define QUIRE_GUEST_PAGE_ENTRY_H_

#include <cstdint>
#include <optional>

#include "base/check.h"
#include "base/units.h"
#include "guest/merge/share_link.h"
#include "guest/swap/swap_slot.h"

namespace quire {

enum class PageState : uint8_t {
  kAbsent,     // reads as zero, has no frame; the all-zero entry
  kResident,   // has a frame, which a secondary MMU may map
  kOut,        // has its frame still, but no secondary MMU maps it: second chance
  kInTransit,  // out, and a copy of it is being stored; a fault takes it back
  kSwapped,    // has a slot in the swap store and no frame
  kPoisoned,   // its content is lost; the guest has been stopped
  kShared,     // its content is in a shared frame, which nobody writes, and which a secondary MMU may map read-only
  kInherited,  // of a clone: reads as the same page of its template, whose frame a secondary MMU may map read-only
};
inline constexpr int kPageStates = 8;

class PageEntry {
 public:
  constexpr PageEntry() = default;

  static constexpr PageEntry Absent() { return PageEntry(); }
  static PageEntry WithFrame(PageState state, FrameNumber frame) {
    QUIRE_CHECK(frame.value() >> kFrameBits == 0);
    const PageEntry entry(state, frame.value() << kFrameShift);
    QUIRE_CHECK(entry.has_frame());
    return entry;
  }
  static PageEntry Swapped(SwapSlot slot) { return PageEntry(PageState::kSwapped, SlotBits(slot)); }
  static PageEntry Shared(FrameNumber frame, ShareLink link) {
    return PageEntry(PageState::kShared, frame.value() << kFrameShift | link.value() << kSlotShift);
  }
  static constexpr PageEntry Poisoned() { return PageEntry(PageState::kPoisoned, 0); }
  // One that nobody maps, and one that somebody may.
  static constexpr PageEntry Inherited() { return PageEntry(PageState::kInherited, 0); }
  static PageEntry Inherited(ShareLink link) {
    QUIRE_CHECK(link.value() < kSlotMask);
    return PageEntry(PageState::kInherited, (link.value() + 1) << kSlotShift);
  }

  constexpr PageState state() const { return static_cast<PageState>(bits_ & kStateMask); }
  // One of its own.
  constexpr bool has_frame() const {
    return state() == PageState::kResident || state() == PageState::kOut || state() == PageState::kInTransit;
  }
  // Its own frame, or the one that it shares.
  FrameNumber frame() const {
    QUIRE_CHECK(has_frame() || state() == PageState::kShared);
    return FrameNumber(bits_ >> kFrameShift & ((uint64_t{1} << kFrameBits) - 1));
  }
  SwapSlot slot() const {
    QUIRE_CHECK(state() == PageState::kSwapped);
    return SwapSlot((bits_ >> kSlotShift) - 1);
  }

  ShareLink link() const {
    QUIRE_CHECK(state() == PageState::kShared);
    return ShareLink(bits_ >> kSlotShift);
  }

  // Of an inherited page that somebody may map, or might until the template's page was invalidated.
  std::optional<ShareLink> inherited_link() const {
    if (state() != PageState::kInherited || bits_ >> kSlotShift == 0) return std::nullopt;
    return ShareLink((bits_ >> kSlotShift) - 1);
  }

  // The same frame and kept slot in another state, or another frame with the same kept slot. The page has a frame.
  PageEntry In(PageState state) const { return WithFrame(state, frame()).WithKeptOf(*this); }
  PageEntry MovedTo(FrameNumber frame) const {
    const PageEntry moved = WithFrame(state(), frame).WithKeptOf(*this);
    return incompressible() ? moved.AsIncompressible() : moved;
  }

  // The slot in which a copy of a page with a frame was kept.
  std::optional<SwapSlot> kept() const {
    if (!has_frame() || bits_ >> kSlotShift == 0) return std::nullopt;
    return SwapSlot((bits_ >> kSlotShift) - 1);
  }
  PageEntry WithKept(SwapSlot slot) const {
    QUIRE_CHECK(has_frame());
    return PageEntry((bits_ & ~(kSlotMask << kSlotShift)) | SlotBits(slot));
  }
  // That of another entry, or none if it has no frame.
  PageEntry WithKeptOf(PageEntry other) const {
    const std::optional<SwapSlot> slot = other.kept();
    return slot.has_value() ? WithKept(*slot) : *this;
  }

  // The page was tried and does not compress: not worth another try until it has been touched again.
  constexpr bool incompressible() const { return (bits_ & kIncompressible) != 0; }
  constexpr PageEntry AsIncompressible() const {
    PageEntry entry = *this;
    entry.bits_ |= kIncompressible;
    return entry;
  }

  constexpr uint64_t bits() const { return bits_; }
  static constexpr PageEntry FromBits(uint64_t bits) { return PageEntry(bits); }
  friend constexpr bool operator==(PageEntry, PageEntry) = default;

 private:
  static constexpr uint64_t kStateMask = 0x7;
  static constexpr uint64_t kIncompressible = 1 << 3;
  static constexpr int kFrameShift = 4;
  static constexpr int kFrameBits = 28;  // as in frame descriptors
  static constexpr int kSlotShift = 32;
  static constexpr uint64_t kSlotMask = 0xffffffff;

  constexpr explicit PageEntry(uint64_t bits) : bits_(bits) {}
  constexpr PageEntry(PageState state, uint64_t rest) : bits_(static_cast<uint64_t>(state) | rest) {}
  static constexpr uint64_t SlotBits(SwapSlot slot) {
    QUIRE_CHECK(slot.value() < kSlotMask);
    return (slot.value() + 1) << kSlotShift;
  }

  uint64_t bits_ = 0;
};

static_assert(sizeof(PageEntry) == 8, "one entry a page, 0.2 % of the guest's memory");
static_assert(PageEntry::Absent() == PageEntry(), "a fresh map is absent everywhere");

}  // namespace quire

#endif  // QUIRE_GUEST_PAGE_ENTRY_H_
