// Programs of operations on guests' memory, run against a naive map of page contents.
//
// A program is a list of typed operations. Operands are numbers taken modulo what there is (guests, pages, blocks), so
// that a program means something whatever is cut out of it: that is how a failing one is shrunk. Printed, it is C++, to
// be pasted into op_program_test.cc as a regression test.
#ifndef QUIRE_TESTS_MODEL_OP_PROGRAM_H_
#define QUIRE_TESTS_MODEL_OP_PROGRAM_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include "absl/types/span.h"
#include "guest/huge/granularity.h"
#include "guest/memory_manager.h"
#include "guest/testing/page_content.h"

namespace quire::model {

// --- What a guest does.

// Reads `count` pages in a row.
struct Read {
  uint32_t guest, page, count;
};
// Fills a page.
struct Write {
  uint32_t guest, page;
  Content content;
  uint32_t seed;
};
// Changes one word of a page.
struct Poke {
  uint32_t guest, page, word, value;
};
// Faults as a thread that must not wait; the page is mapped by nobody for it.
struct Probe {
  uint32_t guest, page;
};
// Gives `count` pages up.
struct Discard {
  uint32_t guest, page, count;
};

// Asks for whole blocks in `count` pages, or wants none any more.
struct Advise {
  uint32_t guest, page, count;
  bool huge;
};

// Of a device of the guest's, which sees the memory by its own translations: reads `size` bytes, 1 to 8192, from byte
// `byte` of a page on, writes such a range, or does one of both by a transfer, as a disk would: wired, copied, unwired.
struct DeviceRead {
  uint32_t guest, page, byte, size;
};
struct DeviceWrite {
  uint32_t guest, page, byte, size, seed;
};
struct DeviceTransfer {
  uint32_t guest, page, byte, size, seed;
  bool into_memory;
};

// Wires `count` pages; does nothing while the guest has kMostWired ranges wired. And unwires the range that was wired
// first.
struct WirePages {
  uint32_t guest, page, count;
};
struct UnwirePages {
  uint32_t guest;
};

// --- What the manager does.

struct Age {
  uint32_t guest, block;
};
// `count` blocks side by side, together.
struct AgeBlocks {
  uint32_t guest, block, count;
};
struct Evict {
  uint32_t guest, block;
};
// Stores a block, makes room, and brings it in ahead of the fault that is going to want it.
struct Prefetch {
  uint32_t guest, block;
};
struct Reclaim {
  uint32_t pages;
};
// Writes compressed pages to the swap area, at least so many KiB; only on a machine that has one.
struct WriteOut {
  uint32_t kib;
};
// A pass of the merger through all guests.
struct MergePass {};
// Looks at shared frames as reclaim does, at few or at many.
struct ReclaimShared {
  bool many;
};
// Compresses so many pages in the store once more, old or not.
struct Recompress {
  uint32_t pages;
};
// The memory that a page lies in fails. Whoever loses a page by it gives that up at once, or finds out when it wants
// it.
struct Poison {
  uint32_t guest, page;
  bool discard;
};
// Makes so many blocks of the arena free, by moving pages.
struct Compact {
  uint32_t blocks;
};

// --- What the machine does.

enum class Mmu : uint8_t { kFake, kFakeWithAccessBits, kEpt };
// Does nothing while there are kMaxGuests. Limits in pages; 0: none.
struct AddGuest {
  uint32_t pages;
  Placement placement;
  Mmu mmu;
  uint32_t frames = 0;
  uint32_t swapped = 0;
};
// Gives a guest other limits, unless it or another has been cloned from it.
struct SetLimits {
  uint32_t guest, frames, swapped;
};
// What the user may change for all guests.
struct SetPolicies {
  bool merge;
  BlockPolicy blocks;
};
struct RemoveGuest {
  uint32_t guest;
};
// Freezes a guest, unless it is frozen, and adds a clone of it. Does nothing while there are kMaxGuests. A frozen guest
// does nothing any more.
struct Clone {
  uint32_t guest;
  Mmu mmu;
};
// Takes memory of the pool for something else, and gives back what was taken first.
struct Wire {
  uint32_t pages;
};
struct Unwire {};

using Op =
    std::variant<Read, Write, Poke, Probe, Discard, Advise, DeviceRead, DeviceWrite, DeviceTransfer, WirePages,
                 UnwirePages, Age, AgeBlocks, Evict, Prefetch, Reclaim, WriteOut, Recompress, MergePass, ReclaimShared,
                 Poison, Compact, AddGuest, SetLimits, SetPolicies, RemoveGuest, Clone, Wire, Unwire>;
using Program = std::vector<Op>;

std::string ToCpp(const Op& op);
std::string ToCpp(const Program& program);

// Where the choices of a random operation come from.
class Dice {
 public:
  virtual ~Dice() = default;
  // A number below `n`, which is at least 1.
  virtual uint32_t Below(uint32_t n) = 0;
};

class RandomDice final : public Dice {
 public:
  explicit RandomDice(uint32_t seed) : random_(seed) {}
  uint32_t Below(uint32_t n) override { return random_() % n; }

 private:
  std::mt19937 random_;
};

// A fuzzer's bytes; zeros after their end.
class BytesDice final : public Dice {
 public:
  explicit BytesDice(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  uint32_t Below(uint32_t n) override;

 private:
  absl::Span<const uint8_t> bytes_;
};

Op RandomOp(Dice& dice);

}  // namespace quire::model

#endif  // QUIRE_TESTS_MODEL_OP_PROGRAM_H_
