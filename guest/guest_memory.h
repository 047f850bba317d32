// One guest's memory: its map, and every change of it. Faults come in through Resolve(), reclaim through Age() and
// Evict(), and each change of a translation goes out through the notifier chain.
//
// Lock tree (docs/locking.md):
//
//   Block::lock
//     subscribers' own locks, inside the notifier chain's callbacks
//     Reclaimer's queue lock
//     the arena's, the budget's and the swap store's locks: leaves, never held across a wait
//
// Of guests that are cloned from one another, the locks of a clone's block come before those of its template's.
//
// The class is in nine files: faults (guest_memory_faults.cc), blocks that come in whole (guest_memory_blocks.cc),
// what takes pages out or elsewhere (guest_memory_reclaim.cc), merging (guest_memory_merge.cc), pages that stay
// (guest_memory_wire.cc), clones (guest_memory_clone.cc), memory that fails (guest_memory_poison.cc), what explanations
// are made of (guest_memory_look.cc), and the rest.
//
// Nothing waits under a block's lock. What would need to wait (for memory) lets go of it, waits, and starts again.
#ifndef QUIRE_GUEST_GUEST_MEMORY_H_
#define QUIRE_GUEST_GUEST_MEMORY_H_

#include <array>
#include <atomic>
#include <bitset>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/counters.h"
#include "base/units.h"
#include "guest/clone/inheritors.h"
#include "guest/fault_handler.h"
#include "guest/frames/compaction.h"
#include "guest/frames/frame_source.h"
#include "guest/frames/page_limit.h"
#include "guest/frames/pool.h"
#include "guest/guest_limits.h"
#include "guest/huge/block_refusal.h"
#include "guest/huge/compactor.h"
#include "guest/huge/granularity.h"
#include "guest/huge/prefetch_hooks.h"
#include "guest/island_budget.h"
#include "guest/memory_map.h"
#include "guest/merge/shared_frames.h"
#include "guest/reclaim/reclaim_hooks.h"
#include "guest/swap/swap_space.h"
#include "guest/wired_pages.h"
#include "notifiers/notifier_chain.h"

namespace quire {

// What faults were answered with, summed over guests. `run` faults bring in their neighbours too; each counts once.
struct FaultCounters {
  Counter total;  // answered
  // Pages:
  Counter zero_fill;
  Counter second_chance;
  Counter swap_in;
  Counter unshare;           // written to while they shared a frame, or read as their template's
  Counter inherited;         // of a template, shown to a clone
  Counter already_resident;  // another vCPU was faster, or the MMU had dropped it by itself
  // Faults for which a whole block was brought in, and blocks that were made whole while pages of them were in use.
  Counter whole;
  Counter promotions;
  Counter prefetched;  // blocks brought in ahead of a stream
  BlockRefusals whole_refused;
};

struct SwapCounters {
  Counter pages_out;
  Counter pages_in;
  Counter zero_pages;    // found while storing: absent again
  Counter taken_back;    // faulted while being stored
  Counter unchanged;     // of those out: their copies from the time before were still there
  Counter stored_as_is;  // of those out: pages that do not compress, but whose block went as a whole
  // Why a page that was out stayed in memory.
  Counter refused_incompressible;
  Counter refused_no_room;
  Counter refused_busy;   // the block was locked
  Counter refused_limit;  // the guest had as many stored as it may
};

// What all guests of a manager share.
struct GuestServices {
  Pool& pool;
  SwapSpace& store;
  SharedFrames& shared;
  IslandBudget& islands;
  ReclaimHooks& reclaim;
  PrefetchHooks& prefetch;
  FaultCounters& faults;
  SwapCounters& swap;
  const GranularityOptions& granularity;         // but for what the next says
  const std::atomic<BlockPolicy>& block_policy;  // may change at any time
  Compactor& compactor;
  Wiring& wiring;
  // Called once for a guest, when it has been stopped, from whatever thread found the reason; must not block.
  std::function<void(GuestMemory&, const absl::Status&)> on_stopped;
};

// Frames of pages that follow each other, neighbours in one range.
using FrameRanges = std::vector<FrameRange>;

// What a thread that evicts keeps between blocks.
class EvictionScratch {
 public:
  static constexpr size_t kBatch = 16;  // pages: 64 KiB, the run in which sequential guests come back

  EvictionScratch() : copies_(std::make_unique<std::byte[]>(2 * kBatch * kPageSize)) {}

 private:
  friend class GuestMemory;
  std::byte* copy(size_t i) const { return copies_.get() + i * kPageSize; }
  std::byte* refused_copy(size_t i) const { return copy(kBatch + i); }

  CompressionScratch compression_;
  std::unique_ptr<std::byte[]> copies_;

  struct Page {
    Gfn gfn;
    std::optional<SwapSlot> kept;  // where there may be a copy
    StoreResult result;
    bool charged = false;  // to the limit of pages in the store
  };
  // Of the block in hand:
  std::vector<Page> pages_;      // those on their way into the store
  std::vector<size_t> refused_;  // of them: those that do not compress, to be written together
  bool whole_ = false;           // their frames are one 2 MiB page
  size_t as_is_ = 0;             // pages that were stored as they are, and ...
  size_t saved_ = 0;             // ... that were not, and take less than a page now
};

// Thread safe.
class GuestMemory final : public FaultHandler {
 public:
  // `frames` says where the guest's pages live. `id` names the guest in frame descriptors and messages. A clone of
  // `parent`, if that is given: it is frozen, of the same size, has its pages in the same way, and outlives the clone.
  static absl::StatusOr<std::unique_ptr<GuestMemory>> Create(GuestId id, PageCount size,
                                                             std::unique_ptr<FrameSource> frames,
                                                             const GuestServices& services,
                                                             const GuestLimits& limits = {},
                                                             GuestMemory* parent = nullptr);
  // Drops everything. No secondary MMU is subscribed any more.
  ~GuestMemory() override;

  // The guest's number, from 0.
  unsigned id() const { return static_cast<unsigned>(id_); }

  // Where page gfn is frame begin + gfn of the pool's file; empty for a guest whose pages may be anywhere.
  FrameRange reservation() const { return frames_->reservation(); }

  // --- FaultHandler
  absl::StatusOr<Resolution> Resolve(Gfn gfn, Access access, Wait wait) override;
  std::byte* HostAddress(FrameNumber frame) override { return services_.pool.Frame(frame); }
  NotifierChain& notifiers() override { return notifiers_; }
  PageCount size() const override { return map_->size(); }

  // --- The guest gives pages up: they read as zero from now on, and their memory is free. Those that are wired keep
  // their frames. Once the guest has been stopped, only those do that are wired for a device.
  void Discard(GfnRange range);

  // --- Pages that stay (mlock, FreeBSD's vm_page_wire).

  // From OK on each page of the range is resident, in a frame of its own, until it is unwired: it is not reclaimed,
  // merged or moved. A page that is wired twice takes two calls of Unwire. May wait, as faults do with Wait::kMay, and
  // brings pages in and counts them as faults do. Errors, which leave wired what was wired before: OutOfRange, the
  // guest has no such pages; ResourceExhausted, a limit, with what to do; FailedPrecondition, a page is wired
  // WiredPages::kMostTimes already; or the guest has been stopped, and why.
  absl::Status Wire(GfnRange range, WiredBy by = WiredBy::kGuest);
  // Of pages that the caller has wired. The guest may have been stopped meanwhile; what was wired for a device then is
  // discarded now.
  void Unwire(GfnRange range, WiredBy by = WiredBy::kGuest);
  // Where pages lie that the caller has wired for a device, in order. DataLoss: the memory of one has failed.
  absl::StatusOr<FrameRanges> WiredFrames(GfnRange range);
  // Pages that are wired, once or more.
  PageCount wired() const { return wired_limit_.charged(); }

  // --- The guest wants whole blocks in a part of its memory, or none any more. Counts where GranularityOptions has
  // `advised_only`; for the blocks that lie wholly in the range, from their next fault on. No block is brought in for
  // it, and none that is whole is taken apart.
  void AdviseHuge(GfnRange range, bool huge);

  // --- For the reclaimer.
  Block& BlockAt(BlockNumber number) { return map_->block(number); }

  // Age and Evict only try the block's lock and do nothing if it is taken. One thread has a block in hand at a time:
  // the reclaimer sees to that.

  // Takes the pages out that were not used since the last time: resident becomes out. Returns how many.
  PageCount Age(Block& block);
  // The same for `count` blocks side by side, at most kMostAgedTogether. Those of them that are whole go out by one
  // invalidation, which costs hardly more than that of a single block: an interrupt of each CPU that runs the guest.
  PageCount AgeBlocks(BlockNumber first, uint64_t count);
  static constexpr uint64_t kMostAgedTogether = 32;
  // Stores what is out, and frees its frames. Returns the number of frames freed, less those that the store took for
  // pages that do not compress.
  PageCount Evict(Block& block, EvictionScratch& scratch);
  // For the reclaimer, which has the block in hand: what is left of it. A block without frames, or with none but those
  // of wired pages, is off the queues when this returns; a fault, or Unwire, enqueues it again.
  enum class Standing : uint8_t { kNoFrames, kAllIn, kSomeOut };
  Standing Settle(Block& block);

  // --- For the prefetcher.

  // Brings a block in whole that has no frames, and leaves it out: the fault that comes for it finds it there. Does
  // nothing if memory is not plentiful or somebody else has the block.
  void Prefetch(BlockNumber number);

  // --- For the merger.

  // What the content of a page looked like a moment ago; it may have changed since.
  struct PageSample {
    Gfn gfn;
    uint64_t hash;  // XXH3 with the merger's seed; of no meaning for zero pages
    bool zero;
  };
  using Samples = absl::InlinedVector<PageSample, kPagesPerBlock>;
  enum class HowToSample : uint8_t {
    kNot,
    kGlance,  // what is zero in some places counts as zero
    kWhole,
  };
  // Looks at those pages of the range, which is within a block, that have frames of their own, as `how` says.
  void SamplePages(GfnRange range, uint64_t seed, absl::FunctionRef<HowToSample(Gfn)> how, Samples& samples);

  // What is to become of a page if its content is still what it was, and whether it did.
  struct Merge {
    Gfn gfn;
    enum class Into : uint8_t {
      kNothing,   // it is zero, and needs no frame
      kNewFrame,  // it is the first to share its content
      kFrame,     // it shares the frame `hold`
    } into;
    uint64_t hash = 0;
    const SharedFrames::Hold* hold = nullptr;
    enum class Outcome : uint8_t { kMerged, kBusy, kChanged, kFull, kNoMemory, kCannot, kWired };
    Outcome outcome = Outcome::kBusy;
  };
  // Pages of one block, in ascending order; those that lie near each other are invalidated together. Takes a whole
  // block apart. Those for kNothing and kFrame have been sampled just now: each is invalidated, and only then looked at
  // again.
  void MergePages(BlockNumber number, uint64_t seed, absl::Span<Merge> merges);
  // Whether the block is whole, or has any frame of its own; it may have changed since.
  bool IsWhole(BlockNumber number);
  bool HasFrames(BlockNumber number);

  // A shared frame is to be given up: this page goes over to another one with the same content, or into the store,
  // where `slot` has it and one more reference. False: the page does not share the frame, or may not.
  bool MoveShared(Gfn gfn, const SharedFrames::Hold& from, const SharedFrames::Hold& to);
  bool EvictShared(Gfn gfn, const SharedFrames::Hold& from, SwapSlot slot);
  // Nobody maps the shared frame for this page any more, until the next fault.
  void UnmapShared(Gfn gfn, const SharedFrames::Hold& frame);

  // --- Clones.

  // The guest becomes a template: its memory stays as it is from now on, for clones to read. No secondary MMU is
  // subscribed any more. Its pages go on being aged, stored, moved and merged.
  void Freeze();
  bool frozen() const { return frozen_.load(std::memory_order_acquire); }
  // The template that this is a clone of, or null.
  GuestMemory* parent() const { return parent_; }
  bool has_clones() const { return clones_.load(std::memory_order_acquire) > 0; }
  // The ancestor that has the content of an inherited page, and does for as long as this guest inherits it.
  GuestMemory& OwnerOf(Gfn gfn) const;

  // What a window of a fresh clone is to show: the frames of its templates, where the process may have the mappings
  // that it can take to show them.
  std::vector<WindowView> Views();
  // What these mappings are charged with.
  PageCount view_charge() const { return view_charge_; }
  // Clones that may map this page of a template.
  size_t InheritorsOf(Gfn gfn) const { return inheritors_ == nullptr ? 0 : inheritors_->CountOf(gfn); }

  // --- For compaction.

  // As FrameMigrator::Migrate, for frames that are pages of one block of this guest. They are invalidated together;
  // their states stay.
  void Migrate(absl::Span<FrameMigrator::Move> moves, FrameMigrator::WholeBlocks whole);
  // As FrameMigrator::Evict, for the frame of page `gfn`.
  FrameMigrator::Answer EvictPage(Gfn gfn, FrameNumber frame);

  // --- For frames whose memory has failed (docs/poison.md). Their bytes are not read any more.

  // From now on a lost page is not the guest's end: somebody tells the guest of it. Who touches one gets DataLoss, each
  // time, until the guest gives the page up. Before the first fault.
  void LiveWithLoss() { lives_with_loss_.store(true, std::memory_order_relaxed); }
  bool lives_with_loss() const { return lives_with_loss_.load(std::memory_order_relaxed); }

  // Page `gfn` has this frame and loses it with its content; who touches it next stops the guest, unless it lives with
  // that.
  enum class Loss : uint8_t {
    kLost,
    kNotItsFrame,  // the page has another one, or none
    kBusy,         // the page is being stored, from a copy that was made before
  };
  Loss PoisonPage(Gfn gfn, FrameNumber frame);
  // The same of a page that shares a frame. False: it does not.
  bool PoisonShared(Gfn gfn, const SharedFrames::Hold& frame);

  // --- The end.

  // No fault is answered any more; `reason` is what they get. The first call counts.
  void Stop(const absl::Status& reason);
  bool stopped() const { return stopped_.load(std::memory_order_acquire); }
  // OK while the guest has not been stopped.
  absl::Status status() const;

  bool has_swap_limit() const { return swapped_limit_.limited(); }
  const PageStateCounts& counts() const { return map_->counts(); }
  uint64_t faults() const { return faults_.value(); }
  // Pages that went into the swap store, each time that they did.
  uint64_t pages_out() const { return pages_out_.value(); }
  // Pages of the pool that this guest's frames take; compressed pages are not counted.
  PageCount frames_held() const;
  // Whether it may hold only so many of them.
  bool is_limited() const { return held_limit_.limited(); }
  bool HasRoomFor(PageCount pages) const { return held_limit_.HasRoomFor(pages); }
  GuestLimits limits() const {
    return {.frames = held_limit_.limit(), .swapped = swapped_limit_.limit(), .advice = limit_advice_};
  }
  // Gives it other limits; zero: none. It may run: what it holds beyond a lower limit of frames goes at its next
  // faults, and what it has stored beyond one of swapped pages stays stored until it is wanted. Errors, which change
  // nothing: InvalidArgument, it cannot run in so few frames; FailedPrecondition, too many of its pages are wired for
  // that.
  absl::Status SetLimits(PageCount frames, PageCount swapped);
  // Whether SetLimits would do it now.
  absl::Status CheckNewLimits(PageCount frames) const;
  // The most frames that it ever held.
  PageCount peak_held() const { return held_limit_.peak(); }
  // The most pages that it ever had in the swap store.
  PageCount peak_swapped() const { return PageCount(swapped_peak_.value()); }
  ByteCount metadata() const;

  // Verifies the numbered invariants of docs/page_states.md. Only while nothing else runs.
  absl::Status Check();
  // The state of one page, for tests.
  PageEntry EntryOf(Gfn gfn);

  // What there is to say of a page and its block, for explanations. It may have changed since.
  struct PageFacts {
    PageEntry entry;
    bool zero = false;                             // it has a frame, and that is all zeros
    std::array<uint16_t, kPageStates> count = {};  // of its block's pages in each state
    bool whole = false;                            // of its block
    bool may_be_whole = false;                     // as far as the options and the guest's advice go
    bool advised = false;
    // What keeps the block from being brought in whole by the next fault that would.
    std::optional<BlockRefusal> why_not_whole = {};
  };
  PageFacts Look(Gfn gfn);

 private:
  static constexpr PageCount kRun{16};      // 64 KiB
  static constexpr int kTriesForBlock = 3;  // times that a fault makes room, before it does without a whole block
  static constexpr int kTriesForPool = 3;   // times that the pool makes room for what a guest at its limit stores
  static constexpr int kMostFetches = 3;    // of many pages; then a fault does with its page alone

  static constexpr PageCount kUnlimitedWiring{~uint64_t{0} >> kPageShift};  // by the guest itself

  GuestMemory(GuestId id, std::unique_ptr<FrameSource> frames, const GuestServices& services, const GuestLimits& limits,
              GuestMemory* parent);

  // What a fault keeps from one try to the next.
  struct FaultPlan {
    Access access = Access::kWrite;
    std::optional<Granularity> granularity = {};  // how much to bring in, decided by the first try
    bool may_compact = false;                     // whether a block is worth another try, with compaction before it
    std::vector<SwapSlot> to_fetch = {};          // from swap areas, before another try
    bool fetches_page = false;                    // the page's own slot is among them
    int fetches = 0;                              // so far
    int rooms_within_limit = 0;                   // times that the guest made room for a block among its own pages
    int pool_rooms = 0;                           // times that the pool made room, for the guest to store pages in
    FetchedPages fetched = {};
    bool of_template = false;         // a template is asked for the page, and has decided how much it brings in
    GuestMemory* at_limit = nullptr;  // who is, when the last try failed for that
  };
  // Why a try did not succeed. That the guest is at its own limit is what frames_ says; outside of this class it is
  // Unavailable, as for a pool that is full.
  static bool IsAtLimit(const absl::Status& status) { return absl::IsOutOfRange(status); }
  static absl::Status InSwapArea() { return absl::UnavailableError("it lies in a swap area"); }

  // One try at a fault. Unavailable: the plan has slots to fetch; or frames were wanted, and free memory is at its min
  // watermark. OutOfRange: frames were wanted, and the guest is at its own limit. Aborted: a whole block was wanted,
  // free memory is scattered, and the plan is to compact then.
  absl::StatusOr<Resolution> TryResolve(Gfn gfn, FaultPlan& plan);
  // Has the slots that the plan wants fetched. Error: the page at `gfn` cannot be read back; the guest was stopped.
  absl::Status FetchFor(Gfn gfn, FaultPlan& plan);
  // Plans to fetch what lies in swap areas of the pages of a range, in a fault at `gfn`; false: nothing does.
  bool PlanToFetch(Block& block, GfnRange range, Gfn gfn, FaultPlan& plan) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Makes another try worth it for a guest that is at its limit. Error: it cannot go on, and was stopped.
  absl::Status MakeRoomWithinLimit(FaultPlan& plan);
  // A page will do.
  void GiveUpBlock(FaultPlan& plan, BlockRefusal why);
  absl::Status StopAtLimit();
  // A fault of this guest has failed for good; it may have been a template that it needed a page of.
  absl::Status StoppedFor(const absl::Status& why);
  absl::StatusOr<Resolution> ResolveLocked(Block& block, Gfn gfn, FaultPlan& plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  Granularity Choose(Block& block, Gfn gfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Whether a block may be brought in whole as far as the user's options and the guest's advice go.
  bool MayBeWhole(const Block& block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock) {
    return quire::MayBeWhole(services_.block_policy.load(std::memory_order_relaxed), block.advised);
  }
  // Whether the latest faults came in order through the blocks before this one, and it may be next.
  bool IsAfterStream(const Block& block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Whether the block was brought in whole so lately that it should not be again, memory being short.
  bool CameWholeTooLately(const Block& block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // All of the block has been brought in, or ahead.
  void BecomeWhole(Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Loads the block and leaves it out, unless the plan has something to fetch first.
  void PrefetchLocked(Block& block, FaultPlan& plan) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  bool MayPrefetch(const Block& block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Pages evicted so far, of all guests, modulo 2^32.
  uint32_t evicted_pages() const {
    return static_cast<uint32_t>(services_.swap.pages_out.value() + services_.swap.zero_pages.value());
  }
  // Whether so many pages can be had without making reclaim start, or going beyond the guest's limit.
  bool HasPlenty(PageCount pages) const;
  // Counts the refusals of what is touched for the first time.
  bool FirstTouchMayBeWhole(const Block& block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);

  // Makes all of a block resident in consecutive frames. FailedPrecondition: it cannot be had whole now; its pages can
  // be had one by one. Aborted: the same, because free memory is scattered. The functions below do it for a block that
  // is whole but out, one without frames, and one of which some pages have frames.
  absl::StatusOr<Resolution> ResolveBlock(Block& block, Gfn gfn, FaultPlan& plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // What keeps the block from being had whole, whoever asks, for as long as its pages are as they are.
  std::optional<BlockRefusal> WhyNotWhole(const Block& block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // FailedPrecondition, counted.
  absl::Status RefuseBlock(BlockRefusal why) const;
  // A window guest's block that came in by pieces, and of which the last one is there now: the window makes one page of
  // it.
  bool IsComplete(const Block& block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  Resolution Promote(Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // All pages of a block whose pages have consecutive frames.
  Resolution AllOf(const Block& block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  static bool IsWholeAndIn(const Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock) {
    return block.whole && block.Count(PageState::kResident) == kPagesPerBlock;
  }
  void TakeBackBlock(Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  absl::Status LoadBlock(Block& block, const FetchedPages& fetched) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  absl::Status GatherBlock(Block& block, const FetchedPages& fetched) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  absl::Status CompleteBlock(Block& block, const FetchedPages& fetched) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  absl::Status MoveToBlock(Block& block, const FetchedPages& fetched) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  absl::StatusOr<FrameNumber> AcquireBlock(const Block& block);
  // OK, or the error that AcquireBlock or GatherBlock would give, as far as can be known before something is fetched.
  absl::Status MayHaveBlock() const;
  void ReleaseUnused(Block& block, Gfn page, FrameNumber first) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Gives a page without a frame this one, with the page's content. `address` is the manager's view of the frame that
  // serves best.
  absl::Status BringIn(Block& block, Gfn gfn, FrameNumber frame, std::byte* address, const FetchedPages& fetched)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // The same for pages in a row. FailedPrecondition: one of them is damaged; it and those after it have given their
  // frames back.
  absl::Status BringInRun(Block& block, GfnRange run, FrameNumber first, std::byte* address,
                          const FetchedPages& fetched) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);

  Resolution AlreadyResident(const Block& block, Gfn gfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  absl::StatusOr<Resolution> TakeBack(Block& block, Gfn gfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // The frame that the page shares, or for a write one of its own.
  absl::StatusOr<Resolution> ResolveShared(Block& block, Gfn gfn, const FaultPlan& plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Gives pages that share frames those from `own` on, with what they had.
  void Unshare(Block& block, GfnRange run, FrameNumber own) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // The template's frame, read-only, or a copy in a frame of its own.
  absl::StatusOr<Resolution> ResolveInherited(Block& block, Gfn gfn, FaultPlan& plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  absl::StatusOr<Resolution> FillZero(Block& block, Gfn gfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  absl::StatusOr<Resolution> SwapIn(Block& block, Gfn gfn, FaultPlan& plan) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // `address` is the manager's view of the frame that serves best. Error: what is stored is damaged; the page stays as
  // it is.
  absl::Status LoadPage(Block& block, Gfn gfn, FrameNumber frame, std::byte* address, const FetchedPages& fetched)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Gives up a swapped page; returns what a fault on it gets.
  absl::Status Poison(Block& block, Gfn gfn, const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // A page that was asked for could not be loaded: plans to fetch it once more, or gives it up.
  absl::Status LookAgain(Block& block, Gfn gfn, const absl::Status& why, FaultPlan& plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  absl::Status CannotReadBack(Gfn gfn, const absl::Status& why) const;
  void ZeroFill(FrameNumber first, PageCount count);
  std::byte* FrameAddress(const Block& block, FrameNumber frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  absl::StatusOr<FrameNumber> AcquireFrames(GfnRange run);
  // Frames for the run, or for its first page alone.
  absl::StatusOr<Resolution> AcquireSome(GfnRange run);
  void MakeResident(Block& block, GfnRange run, FrameNumber first) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);

  // The pages around `gfn`, within its aligned 64 KiB, that are in the same state as it.
  GfnRange RunAround(const Block& block, Gfn gfn) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // The page, and those after it in that run if the guest's faults come in order.
  GfnRange RunAhead(const Block& block, Gfn gfn, const FaultPlan& plan) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Those of them that lie in consecutive frames; the page has one.
  Resolution ConsecutiveAround(const Block& block, Gfn gfn) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);

  void BeginAsClone();
  void EndAsClone();
  // Whether the page is inherited from this ancestor.
  bool InheritsFrom(const GuestMemory& owner, const Block& block, Gfn gfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // The inherited pages around `gfn`, within its aligned 64 KiB, that this ancestor has.
  GfnRange InheritedAround(const GuestMemory& owner, const Block& block, Gfn gfn)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Where a window's view shows the page; nullopt: nowhere, or there is no window.
  std::optional<FrameNumber> ViewedFrame(const Block& block, Gfn gfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  bool IsViewed(BlockNumber number);
  // Brings a page of this template in for a clone to read.
  absl::StatusOr<Resolution> ResolveForClone(Block& block, Gfn gfn, FaultPlan& plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // The page can be had from the template's frames; nullopt: not here, or it is zero.
  absl::StatusOr<std::optional<Resolution>> TryShow(Block& block, Gfn gfn, GuestMemory& owner, FaultPlan& plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  Resolution Show(Block& block, GfnRange run, GuestMemory& owner, const Resolution& theirs)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Copies the page, and some around it where that is cheap, into frames of its own. Nullopt: it is zero.
  absl::StatusOr<std::optional<Resolution>> TryCopy(Block& block, Gfn gfn, GuestMemory& owner, FaultPlan& plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // The pages, inherited from the owner, whose block is locked too, have these frames now.
  void TakeOver(Block& block, GfnRange run, FrameNumber own, GuestMemory& owner)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Pages of which the template has nothing become absent.
  void InheritZeros(Block& block, Gfn gfn, GuestMemory& owner) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // The window is to show the block's own frames from now on.
  void LeaveView(Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Nobody maps the template's frames for these pages any more.
  void LeaveTemplates(Block& block, GfnRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  void LeaveTemplate(Gfn gfn, PageEntry entry);

  // Merges pages that lie near each other, in one invalidation.
  void MergeRun(Block& block, uint64_t seed, absl::Span<Merge> run) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // What becomes of the merge, by the page's content: under the invalidation, or before it as far as can be seen then
  // (kMerged: it may).
  Merge::Outcome LooksLike(const Block& block, uint64_t seed, const Merge& merge)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Whether the page is worth an invalidation (kMerged), or what will become of the merge.
  Merge::Outcome LooksPromising(const Block& block, uint64_t seed, const Merge& merge)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  Merge::Outcome MergePage(Block& block, uint64_t seed, const Merge& merge) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Gives a page up that has a frame of its own, which is freed by ReleaseFrames.
  void ReplacePage(Block& block, Gfn gfn, PageEntry entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // One more page of the guest lies in a frame that is not its own, for which a window needs a mapping. False: no more
  // are to be had.
  bool ChargeIsland(const Merge& merge) {
    return merge.into == Merge::Into::kNothing || frames_->reservation().empty() ||
           services_.islands.TryCharge(kOnePage);
  }
  void UnchargeIsland() {
    if (!frames_->reservation().empty()) services_.islands.Uncharge(kOnePage);
  }
  // Has the page share a frame: the invalidated one of the merge, or a copy of its own.
  Merge::Outcome SharePage(Block& block, const Merge& merge) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Whether the page shares this frame.
  bool Shares(const Block& block, Gfn gfn, FrameNumber frame) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  void LeaveShared(PageEntry entry);
  Sharer AsSharer(Gfn gfn) const { return {.guest = id_, .gfn = gfn}; }

  void MigrateLocked(Block& block, absl::Span<FrameMigrator::Move> moves, FrameMigrator::WholeBlocks whole)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  void MovePage(Block& block, const FrameMigrator::Move& move) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Whether the page has this frame, and nobody is storing it.
  bool Holds(const Block& block, Gfn gfn, FrameNumber frame) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Whether the page is wired and stays where it is, which is counted.
  bool IsRefusedAsWired(const Block& block, Gfn gfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // The page if somebody may map it, otherwise nothing.
  GfnRange MappedPart(const Block& block, Gfn gfn) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // An invalidation of the range, to be ended when its entries are changed; none of an empty range.
  std::optional<ScopedInvalidation> Unmap(GfnRange range);
  FrameMigrator::Answer EvictPageLocked(Block& block, Gfn gfn, FrameNumber frame)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Stores a page that is in transit, if the guest may have one more stored.
  StoreResult StoreWithinLimit(EvictionScratch::Page& page, const std::byte* copy, EvictionScratch& scratch);
  // Stores a page, unless there is a copy of it as it is.
  StoreResult StorePage(std::optional<SwapSlot> kept, const std::byte* page, CompressionScratch& scratch,
                        Incompressible incompressible);
  // What becomes of a page in transit whose copy has been stored, or not. Returns whether its frame is free to go.
  bool FinishPage(Block& block, Gfn gfn, const StoreResult& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);

  void NoteSwapped();
  void FreeKept(PageEntry entry);

  // Locks the block, unless somebody else has it or it is whole and in and was used lately.
  enum class Found : uint8_t { kBusy, kYoungWhole, kColdWhole, kPieces };
  Found TryLockToAge(Block& block);
  // Takes the blocks out, which are locked, whole and in, and unlocks them.
  PageCount TakeOutWhole(BlockNumber first, uint64_t count);
  PageCount AgePages(Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  void TakeOut(Block& block, const std::bitset<kPagesPerBlock>& cold) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);

  Incompressible IfIncompressible(const EvictionScratch& scratch) const;
  // Puts aside a page that does not compress, and writes those that were, if there are so many. False: there is no room
  // for them now.
  void KeepRefused(size_t page, const std::byte* copy, EvictionScratch& scratch);
  bool WriteRefused(EvictionScratch& scratch, size_t at_least);
  bool BeginEviction(Block& block, Gfn& cursor, EvictionScratch& scratch);
  PageCount FinishEviction(Block& block, const EvictionScratch& scratch);
  // Ends a page's life in its frame. The frames are given back afterwards, in runs, by ReleaseFrames.
  struct FrameRun {
    Gfn gfn;
    FrameNumber frame;
    PageCount count;
  };
  using FrameRuns = absl::InlinedVector<FrameRun, EvictionScratch::kBatch>;
  static void AddToRuns(FrameRuns& runs, Gfn gfn, FrameNumber frame);
  // The one place where a guest's frames become free: after the flush, under the block's lock, so that no fault can
  // populate a page's home again before its hole is punched.
  PageCount ReleaseFrames(Block& block, const FrameRuns& runs) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  void DiscardInBlock(Block& block, GfnRange range);

  // Gives a wired page's place a content of zeros, or, of a guest that was stopped, has it not wired any more: then the
  // answer is false, and the page can go.
  bool ZeroIfWired(Block& block, Gfn gfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // Charges so many pages to the guest's limit of wired pages and to that of all guests.
  absl::Status ChargeWired(PageCount pages);
  void UnchargeWired(PageCount pages);
  // Pages of the range that are not wired now.
  PageCount CountUnwired(GfnRange range);
  // Wires the pages from `end` on, which follows, up to `last`. What has been charged already is used up first.
  absl::Status WireUpTo(Gfn last, WiredBy by, Gfn& end, PageCount& charged);
  // Wires pages from the beginning of the range on, up to one that is not resident or the end of their block; returns
  // how many.
  absl::StatusOr<PageCount> WireResident(GfnRange range, WiredBy by, PageCount& charged);
  absl::Status WirePage(Block& block, Gfn gfn, WiredBy by, PageCount& charged)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  void UnwireInBlock(Block& block, GfnRange range, WiredBy by);
  // A page has just been unwired for the last time.
  void NoteUnwired(Block& block, Gfn gfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // However often it is wired, it is not any more.
  void ForgetWired(Block& block, Gfn gfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  void ForgetWired(Block& block, Gfn gfn, WiredBy by) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  void UnwireAll(Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);
  // A block that had no frames, or none but of wired pages, is on no queue.
  void EnqueueIfNeeded(Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(block.lock);

  // What is charged to the limits is what there is.
  absl::Status CheckLimits() const;
  // How many pages a guest may have wired that may hold so many frames.
  static PageCount WiringWithin(PageCount frames) { return frames == PageCount() ? kUnlimitedWiring : frames / 2; }

  // False if it was stopped already.
  bool MarkStopped(const absl::Status& reason) ABSL_LOCKS_EXCLUDED(stop_lock_);

  absl::Status CheckBlock(Block& block);

  const GuestId id_;
  const GuestServices services_;
  const std::string limit_advice_;
  PageLimit held_limit_;     // charged by frames_
  PageLimit swapped_limit_;  // charged with what is being stored, too
  PageLimit wired_limit_;    // charged with what is being wired, too; a guest without a limit may wire all its pages
  Gauge wired_blocks_;       // that have a page that is wired
  Peak swapped_peak_;
  const std::unique_ptr<FrameSource> frames_;
  std::unique_ptr<MemoryMap> map_;
  NotifierChain notifiers_;
  Counter faults_;
  Counter pages_out_;

  GuestMemory* const parent_;
  PageCount view_charge_;
  std::atomic<uint64_t> clones_ = 0;
  std::unique_ptr<Inheritors> inheritors_;  // of a template
  std::atomic<bool> frozen_ = false;

  std::atomic<bool> lives_with_loss_ = false;
  std::atomic<bool> stopped_ = false;
  mutable absl::Mutex stop_lock_;
  absl::Status stop_reason_ ABSL_GUARDED_BY(stop_lock_);
};

// The guest with this number; null: it is not among them. `guests` are in the order of their numbers.
GuestMemory* FindGuest(absl::Span<const std::unique_ptr<GuestMemory>> guests, GuestId id);

}  // namespace quire

#endif  // QUIRE_GUEST_GUEST_MEMORY_H_
