// What is known of each frame of the arena: one 8-byte descriptor a frame.
//
// bit  63            48 47                   36 35              8 7     4 3    0
//     +----------------+-----------------------+-----------------+-------+------+
//     |                                0                                 |absent|  its block is not populated
//     +-----------------------------+----------------------------+-------+------+
//     |       previous (28)         |          next (28)         | order | free |  head of a free run
//     +-----------------------------+----------------------------+-------+------+
//     |                                0                                 |cached|  in a per-CPU list, order 0
//     +------------------------------------------------------------------+------+
//     |                                0                                 |isolat|  free, but set aside: somebody is
//     +------------------------------------------------------------------+------+  emptying the range that it lies in
//     |                                0                                 | busy |  allocated and not typed, or inside
//     +----------------+-------------------------------------------------+------+  a run whose head tells more
//     |   guest (16)   |                    gfn (40)             | 0   w |owned |  an exclusive page of a guest, who
//     +----------------+---------------+-------------------------+-------+------+  has it wired if w is 1
//     |           value (32)           |            0            | order | zone |  a slab of the compressed store
//     +--------------------------------+-------------------------+-------+------+
//     |                                0                                 |wired |  never moved, never reclaimed
//     +--------------------------------+-------------------------+-------+------+
//     |          number (32)           |                 0               |shared|  what several pages map: SharedFrames
//     +--------------------------------+---------------------------------+------+
//
// A table of zeroes says that every block is absent: the table is a mapping that is touched lazily, and the
// descriptors of one block fill exactly one page of it. So its memory follows the blocks that were ever live.
//
// Writers: the allocator writes descriptors of frames that nobody owns; whoever owns a frame may write its descriptor
// (to busy, owned, zone or wired) until the frame is freed. Anybody may read at any time: a descriptor is one word,
// read and written whole, so it is never torn, but it may be out of date as soon as it is read. Whoever acts on it
// confirms it under the lock of its owner. What it names was made before it was written (release and acquire).
#ifndef QUIRE_GUEST_FRAMES_FRAME_TABLE_H_
#define QUIRE_GUEST_FRAMES_FRAME_TABLE_H_

#include <atomic>
#include <cstdint>
#include <ostream>
#include <utility>

#include "absl/status/statusor.h"
#include "base/check.h"
#include "base/mapping.h"
#include "base/units.h"

namespace quire {

enum class FrameKind : uint8_t {
  kAbsent = 0,
  kFree,
  kCached,
  kIsolated,
  kBusy,
  kOwned,
  kZone,
  kWired,
  kShared,
  kPoisoned
};
const char* FrameKindName(FrameKind kind);

// Which guest owns a page, as the reverse map names it.
enum class GuestId : uint16_t {};

// One descriptor: a value. See the picture above.
class FrameDescriptor {
 public:
  static constexpr int kFrameBits = 28;
  static constexpr int kGfnBits = 40;
  // Stands for "no frame" in the links of free runs.
  static constexpr FrameNumber kNoFrame = FrameNumber((uint64_t{1} << kFrameBits) - 1);

  constexpr FrameDescriptor() = default;
  static constexpr FrameDescriptor Absent() { return FrameDescriptor(FrameKind::kAbsent); }
  static constexpr FrameDescriptor Cached() { return FrameDescriptor(FrameKind::kCached); }
  static constexpr FrameDescriptor Isolated() { return FrameDescriptor(FrameKind::kIsolated); }
  static constexpr FrameDescriptor Busy() { return FrameDescriptor(FrameKind::kBusy); }
  static constexpr FrameDescriptor Wired() { return FrameDescriptor(FrameKind::kWired); }
  // Its memory has failed: nobody owns it, and nobody frees it.
  static constexpr FrameDescriptor Poisoned() { return FrameDescriptor(FrameKind::kPoisoned); }
  static constexpr FrameDescriptor Free(int order, FrameNumber previous, FrameNumber next) {
    return FrameDescriptor(FrameKind::kFree, Order(order) | next.value() << 8 | previous.value() << 36);
  }
  static constexpr FrameDescriptor Owned(GuestId guest, Gfn gfn) {
    QUIRE_CHECK(gfn.value() >> kGfnBits == 0);
    return FrameDescriptor(FrameKind::kOwned, gfn.value() << 8 | static_cast<uint64_t>(guest) << 48);
  }
  // Of a page that the guest has wired where it is.
  static constexpr FrameDescriptor OwnedAndWired(GuestId guest, Gfn gfn) {
    return FrameDescriptor(Owned(guest, gfn).bits() | kWiredByGuest);
  }
  // `value` is the compressed store's own.
  static constexpr FrameDescriptor Zone(int order, uint32_t value) {
    return FrameDescriptor(FrameKind::kZone, Order(order) | uint64_t{value} << 32);
  }

  static constexpr FrameDescriptor Shared(uint32_t number) {
    return FrameDescriptor(FrameKind::kShared, uint64_t{number} << 32);
  }

  constexpr FrameKind kind() const { return static_cast<FrameKind>(bits_ & 0xf); }
  constexpr bool is(FrameKind k) const { return kind() == k; }
  // Neither absent nor in the allocator's hands; a busy frame may also be the inside of a free run.
  constexpr bool may_be_allocated() const { return kind() >= FrameKind::kBusy; }

  // Never moved: as long as somebody has it wired, or for good, its memory having failed.
  constexpr bool stays() const {
    return is(FrameKind::kWired) || is(FrameKind::kPoisoned) || (is(FrameKind::kOwned) && (bits_ & kWiredByGuest) != 0);
  }

  constexpr int order() const { return static_cast<int>(bits_ >> 4 & 0xf); }                 // free, zone
  constexpr FrameNumber next() const { return FrameNumber(bits_ >> 8 & kNoFrame.value()); }  // free
  constexpr FrameNumber previous() const { return FrameNumber(bits_ >> 36); }                // free
  constexpr Gfn gfn() const { return Gfn(bits_ >> 8 & ((uint64_t{1} << kGfnBits) - 1)); }    // owned
  constexpr GuestId guest() const { return static_cast<GuestId>(bits_ >> 48); }              // owned
  constexpr uint32_t shared_number() const { return static_cast<uint32_t>(bits_ >> 32); }    // shared
  constexpr uint32_t zone_value() const { return static_cast<uint32_t>(bits_ >> 32); }       // zone

  constexpr uint64_t bits() const { return bits_; }
  static constexpr FrameDescriptor FromBits(uint64_t bits) { return FrameDescriptor(bits); }
  friend constexpr bool operator==(FrameDescriptor, FrameDescriptor) = default;
  friend std::ostream& operator<<(std::ostream& os, FrameDescriptor d);

 private:
  static constexpr uint64_t kWiredByGuest = 1 << 4;

  constexpr explicit FrameDescriptor(uint64_t bits) : bits_(bits) {}
  constexpr explicit FrameDescriptor(FrameKind kind, uint64_t rest = 0) : bits_(static_cast<uint64_t>(kind) | rest) {}
  static constexpr uint64_t Order(int order) { return static_cast<uint64_t>(order) << 4; }

  uint64_t bits_ = 0;
};

// The descriptors of frames 0 to size - 1. Thread safe as described at the top. Movable, not copyable.
class FrameTable {
 public:
  // The most frames a table describes: whole blocks, with the last frame number left over for kNoFrame. 1 TiB less
  // one block.
  static constexpr PageCount kMaxSize = PageCount((uint64_t{1} << FrameDescriptor::kFrameBits) - kPagesPerBlock);

  // A table in which every block is absent. `size` is whole blocks. Reserves 8 bytes of address space a frame and
  // touches none of it. Errors: InvalidArgument, ResourceExhausted (no address space).
  static absl::StatusOr<FrameTable> Create(PageCount size);
  FrameTable(FrameTable&&) = default;
  FrameTable& operator=(FrameTable&&) = delete;

  PageCount size() const { return size_; }
  FrameRange range() const { return FrameRange(FrameNumber(0), size_); }

  FrameDescriptor Get(FrameNumber frame) const {
    return FrameDescriptor::FromBits(std::atomic_ref<uint64_t>(At(frame)).load(std::memory_order_acquire));
  }
  void Set(FrameNumber frame, FrameDescriptor descriptor) {
    std::atomic_ref<uint64_t>(At(frame)).store(descriptor.bits(), std::memory_order_release);
  }
  // Sets each frame of `range` to `descriptor`.
  void Fill(FrameRange range, FrameDescriptor descriptor) {
    for (FrameNumber frame = range.begin(); frame < range.end(); ++frame) Set(frame, descriptor);
  }

 private:
  FrameTable(Mapping memory, PageCount size) : memory_(std::move(memory)), size_(size) {}

  // The buddy allocator checks the frames it is given once, and then works on the words.
  friend class BuddyAllocator;
  uint64_t* words() const { return reinterpret_cast<uint64_t*>(memory_.data()); }

  uint64_t& At(FrameNumber frame) const {
    QUIRE_CHECK(frame.value() < size_.in_pages());
    return words()[frame.value()];
  }

  Mapping memory_;
  PageCount size_;
};

static_assert(sizeof(FrameDescriptor) == 8);
static_assert(FrameDescriptor() == FrameDescriptor::Absent(), "an untouched table must say absent");
static_assert(kPagesPerBlock * sizeof(FrameDescriptor) == kPageSize, "the descriptors of a block fill a page");
static_assert(FrameDescriptor::Free(9, FrameNumber(0xabcdef1), FrameNumber(0x2345678)).bits() == 0xabcdef1234567891);
static_assert(FrameDescriptor::Owned(GuestId{0xfedc}, Gfn(0x123456789a)).bits() == 0xfedc123456789a05);
static_assert(FrameDescriptor::OwnedAndWired(GuestId{0xfedc}, Gfn(0x123456789a)).bits() == 0xfedc123456789a15);
static_assert(FrameDescriptor::Zone(3, 0x89abcdef).bits() == 0x89abcdef00000036);
static_assert(std::atomic_ref<uint64_t>::is_always_lock_free);

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_FRAME_TABLE_H_
