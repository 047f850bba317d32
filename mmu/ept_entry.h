// An entry of the software EPT, in the format of Intel's extended page tables (SDM volume 3C, 28.3.2), so that someone
// who knows one knows the other.
//
//   63        52 51                                  12 11 10  9  8  7  6  5    3  2  1  0
//  +------------+--------------------------------------+--+--+--+--+--+--+-------+--+--+--+
//  | 0          | address, bits 51 to 12               | 0| 0| D| A|PS|IP| type  | X| W| R|
//  +------------+--------------------------------------+--+--+--+--+--+--+-------+--+--+--+
//
//   R, W, X  reading, writing and fetching are allowed; all clear: not present
//   type     memory type, in leaves: 6, write-back
//   IP       ignore the guest's PAT, in leaves: 1
//   PS       leaf of 2 MiB, in a page directory (level 2). Leaves of 1 GiB are not used
//   A        accessed since the bit was last cleared. Leaves only: the processor sets it in tables too
//   D        written since the entry was made. Leaves only
//   address  of a leaf: the frame number. Of a table: where it lies in this process
//
// Level 4 is the root, level 1 holds the 4 KiB leaves; a level is indexed by 9 bits of the guest frame number.
#ifndef QUIRE_MMU_EPT_ENTRY_H_
#define QUIRE_MMU_EPT_ENTRY_H_

#include <cstdint>

#include "base/check.h"
#include "base/units.h"

namespace quire {

class EptEntry {
 public:
  static constexpr uint64_t kRead = uint64_t{1} << 0;
  static constexpr uint64_t kWrite = uint64_t{1} << 1;
  static constexpr uint64_t kExecute = uint64_t{1} << 2;
  static constexpr uint64_t kWriteBack = uint64_t{6} << 3;
  static constexpr uint64_t kIgnorePat = uint64_t{1} << 6;
  static constexpr uint64_t kLarge = uint64_t{1} << 7;
  static constexpr uint64_t kAccessed = uint64_t{1} << 8;
  static constexpr uint64_t kDirty = uint64_t{1} << 9;
  static constexpr uint64_t kAddress = ((uint64_t{1} << 52) - 1) & ~uint64_t{0xfff};

  constexpr EptEntry() = default;
  constexpr explicit EptEntry(uint64_t bits) : bits_(bits) {}

  // A leaf of 4 KiB, neither accessed nor dirty.
  static constexpr EptEntry Page(FrameNumber frame, Protection protection) {
    const uint64_t write = protection == Protection::kReadWrite ? kWrite : 0;
    return EptEntry((frame.value() << kPageShift) | kIgnorePat | kWriteBack | kExecute | write | kRead);
  }
  // A leaf of 2 MiB. `frame` is a multiple of 512.
  static constexpr EptEntry Block(FrameNumber frame, Protection protection) {
    QUIRE_CHECK(frame.value() % kPagesPerBlock == 0);
    return EptEntry(Page(frame, protection).bits_ | kLarge);
  }
  // A pointer to the table of the next level, which is aligned to a page.
  static EptEntry Table(const void* table) {
    const uint64_t address = reinterpret_cast<uintptr_t>(table);
    QUIRE_CHECK((address & ~kAddress) == 0);
    return EptEntry(address | kExecute | kWrite | kRead);
  }

  constexpr uint64_t bits() const { return bits_; }
  constexpr bool present() const { return (bits_ & (kRead | kWrite | kExecute)) != 0; }
  constexpr bool large() const { return (bits_ & kLarge) != 0; }
  constexpr bool writable() const { return (bits_ & kWrite) != 0; }
  constexpr bool accessed() const { return (bits_ & kAccessed) != 0; }
  constexpr bool dirty() const { return (bits_ & kDirty) != 0; }
  constexpr bool Allows(Access access) const { return present() && (access == Access::kRead || writable()); }

  constexpr FrameNumber frame() const { return FrameNumber((bits_ & kAddress) >> kPageShift); }
  void* table() const { return reinterpret_cast<void*>(bits_ & kAddress); }

  constexpr EptEntry With(uint64_t flags) const { return EptEntry(bits_ | flags); }
  friend constexpr bool operator==(EptEntry, EptEntry) = default;

 private:
  uint64_t bits_ = 0;
};

static_assert(sizeof(EptEntry) == 8);
static_assert(!EptEntry().present());
static_assert(EptEntry::Page(FrameNumber(0x12345), Protection::kReadWrite).bits() == 0x12345077);
static_assert(EptEntry::Page(FrameNumber(0x12345), Protection::kReadOnly).bits() == 0x12345075);
static_assert(EptEntry::Block(FrameNumber(0x12200), Protection::kReadWrite).bits() == 0x122000f7);
static_assert(EptEntry::kAddress == 0x000ffffffffff000);
static_assert(EptEntry::Page(FrameNumber((uint64_t{1} << 40) - 1), Protection::kReadOnly).frame() ==
              FrameNumber((uint64_t{1} << 40) - 1));

}  // namespace quire

#endif  // QUIRE_MMU_EPT_ENTRY_H_
