// Runs programs: a MemoryManager with its guests' MMUs on one side, a naive map of page contents on the other.
#ifndef QUIRE_TESTS_MODEL_MACHINE_H_
#define QUIRE_TESTS_MODEL_MACHINE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "base/units.h"
#include "guest/memory_manager.h"
#include "mmu/guest_device_memory.h"
#include "tests/model/op_program.h"

namespace quire::model {

// A guest's MMU, and the one vCPU on it.
class SoftwareMmu {
 public:
  virtual ~SoftwareMmu() = default;
  virtual absl::Status WithPage(Gfn gfn, Access access, absl::FunctionRef<void(std::byte*)> use) = 0;
  // The frame that is mapped for the page now.
  virtual std::optional<FrameNumber> Lookup(Gfn gfn) = 0;
};

// Whole blocks come where guests want them, which at first is everywhere. For one thread.
class Machine {
 public:
  static constexpr size_t kMaxGuests = 5;
  // Ranges that one guest has wired: they may overlap.
  static constexpr size_t kMostWired = 4;
  static constexpr PageCount kPool = PageCount::OfBlocks(12);
  // Reservations are not used again after their guest: room for many.
  static constexpr PageCount kReservations = PageCount::OfBlocks(4096);

  // So few that they run out.
  static constexpr PageCount kIslands{4};
  // Each may keep a block of the arena from being emptied.
  static constexpr PageCount kMostPoisoned{8};
  static constexpr ByteCount kSwapArea = ByteCount::MiB(6);

  // Three guests, which together have more memory than the pool.
  explicit Machine(bool has_swap_area = false);
  ~Machine();

  // Error: where the manager and the naive map disagree.
  absl::Status Apply(const Op& op);
  // The manager's own invariants, and that MMUs map what the manager thinks they may.
  absl::Status Check();
  // Reads every page of every guest, so that none stays unread.
  absl::Status CompareAll();

  MemoryManager& manager() { return *manager_; }
  // By how much each guest holds more frames than it may, since its limit was lowered.
  std::vector<PageCount> BeyondLimits() const;
  // Of the devices of guests that are gone, or frozen.
  uint64_t device_hits() const { return device_hits_; }
  uint64_t translations_dropped() const { return translations_dropped_; }

 private:
  using Page = std::array<std::byte, kPageSize>;
  struct WiredRange {
    GfnRange pages;
    std::vector<FrameNumber> frames;  // where each page was when it was wired, and is to be as long as it is
  };
  struct Guest {
    GuestMemory* memory;
    std::unique_ptr<SoftwareMmu> mmu;           // none of a frozen one
    std::unique_ptr<GuestDeviceMemory> device;  // nor of that
    std::map<Gfn, Page> pages = {};             // those that are not zero
    std::deque<WiredRange> wired = {};
    std::set<Gfn> lost = {};  // by memory that failed
    // What it had when it was given its latest limits; they may be lower.
    PageCount held_before = {};
    PageCount swapped_before = {};
    bool limits_changed = false;
    bool stopped = false;
  };

  absl::Status Do(const Read& op);
  absl::Status Do(const Write& op);
  absl::Status Do(const Poke& op);
  absl::Status Do(const Probe& op);
  absl::Status Do(const Discard& op);
  absl::Status Do(const Advise& op);
  absl::Status Do(const DeviceRead& op);
  absl::Status Do(const DeviceWrite& op);
  absl::Status Do(const DeviceTransfer& op);
  absl::Status Do(const WirePages& op);
  absl::Status Do(const UnwirePages& op);
  absl::Status Do(const Age& op);
  absl::Status Do(const AgeBlocks& op);
  absl::Status Do(const Evict& op);
  absl::Status Do(const Prefetch& op);
  absl::Status Do(const Reclaim& op);
  absl::Status Do(const WriteOut& op);
  absl::Status Do(const MergePass& op);
  absl::Status Do(const ReclaimShared& op);
  absl::Status Do(const Recompress& op);
  absl::Status Do(const Poison& op);
  absl::Status Do(const Compact& op);
  absl::Status Do(const AddGuest& op);
  absl::Status Do(const SetLimits& op);
  absl::Status Do(const SetPolicies& op);
  absl::Status Do(const RemoveGuest& op);
  absl::Status Do(const Clone& op);
  absl::Status Do(const Wire& op);
  absl::Status Do(const Unwire& op);

  bool HasPagesInSwapArea(GuestMemory& memory, BlockNumber block);
  // Whether guests are inherited from, some of which may be gone.
  bool HasClones() const;
  Guest* Find(uint32_t guest) { return guests_.empty() ? nullptr : &guests_[guest % guests_.size()]; }
  absl::Status ReadPage(Guest& guest, Gfn gfn);
  // Changes a page in the guest and in the map.
  absl::Status Change(Guest& guest, Gfn gfn, absl::FunctionRef<void(std::byte*)> change);
  // The part of a guest's memory that a device's operation is about. It may reach from one region into the next.
  struct DeviceRange {
    Guest* guest;  // none, if it has no device
    uint64_t begin;
    uint64_t size;
    Gpa gpa() const { return Gpa(begin); }
    GfnRange pages() const {
      return GfnRange(Gfn(begin >> kPageShift), Gfn((begin + size - 1) >> kPageShift) + kOnePage);
    }
  };
  DeviceRange Locate(uint32_t guest, uint32_t page, uint32_t byte, uint32_t size);
  // What the naive map has there, and what is to be there from now on.
  static std::vector<std::byte> Expected(const DeviceRange& range);
  static void Expect(const DeviceRange& range, absl::Span<const std::byte> bytes);
  // After an operation of a device with this status: it was to fail, and did; or what it read, if anything, is right.
  absl::Status JudgeDevice(const DeviceRange& range, const absl::Status& status, absl::Span<const std::byte> read);
  // Whether an error of an access is as it should be.
  absl::Status Judge(Guest& guest, Gfn gfn, const absl::Status& status);
  // About how many frames a guest has to hold to keep its pages, and how many of the others compress.
  struct Needs {
    PageCount frames;
    PageCount compressible;
  };
  static Needs NeedsOf(const Guest& guest);
  // About how many frames it takes to keep what guests hold, with all that compresses compressed.
  PageCount NeededFrames() const;
  absl::Status CheckLimits() const;
  // What is wired is where it was.
  absl::Status CheckWired() const;
  static std::set<Gfn> WiredPagesOf(const Guest& guest);
  absl::Status NoticeStops();
  void Remove(Guest& guest);
  void RemoveDevice(Guest& guest);
  absl::Status CheckMmu(Guest& guest);

  // Arena frames that are free, but not in whole blocks: no reservation can use them.
  PageCount ScatteredFrames() const;

  // Stopped by the manager, not noticed yet; with the scattered frames at that time.
  std::map<const GuestMemory*, PageCount> stopped_;
  std::unique_ptr<MemoryManager> manager_;
  std::deque<Guest> guests_;
  std::vector<Needs> orphans_;  // of guests that were removed, but are kept as long as there may be clones
  std::deque<FrameRange> wired_;
  EvictionScratch scratch_;
  uint64_t device_hits_ = 0;
  uint64_t translations_dropped_ = 0;
};

// What went wrong, and after how many operations.
struct Outcome {
  size_t operations = 0;
  absl::Status status;
};

// Runs a program on a machine of its own, with a swap area if the program writes to it: Check() after each hundred
// operations and at the end, all contents compared at the end. `progress`, if given, is kept at the number of the
// operation being applied.
Outcome Run(const Program& program, volatile size_t* progress = nullptr);

// The same in a child process, so that a program that stops the manager's own checks is survived; what the child
// prints is dropped if `quiet`. Only for processes with one thread.
Outcome RunInChild(const Program& program, bool quiet = false);

// Makes a failing program short: cuts pieces out of it, smaller and smaller ones, as long as it still fails. Asks
// `fails` at most `tries` times.
Program Shrink(Program program, int tries, absl::FunctionRef<bool(const Program&)> fails);

}  // namespace quire::model

#endif  // QUIRE_TESTS_MODEL_MACHINE_H_
