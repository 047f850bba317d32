// Everything guests' memory takes, put together: the pool, the swap store, the reclaimer, and the guests. What the vmm
// makes one of.
#ifndef QUIRE_GUEST_MEMORY_MANAGER_H_
#define QUIRE_GUEST_MEMORY_MANAGER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/daemon.h"
#include "base/units.h"
#include "guest/frames/compaction.h"
#include "guest/frames/frame_table.h"
#include "guest/frames/pool.h"
#include "guest/guest_limits.h"
#include "guest/guest_memory.h"
#include "guest/huge/compaction_mode.h"
#include "guest/huge/compactor.h"
#include "guest/huge/granularity.h"
#include "guest/huge/prefetcher.h"
#include "guest/island_budget.h"
#include "guest/merge/merger.h"
#include "guest/merge/reverse_map.h"
#include "guest/merge/shared_frames.h"
#include "guest/reclaim/reclaimer.h"
#include "guest/swap/backing_store.h"
#include "guest/swap/swap_area.h"
#include "guest/swap/swap_space.h"
#include "guest/wired_pages.h"

namespace quire {

// Where a guest's pages live.
enum class Placement : uint8_t {
  kReservation,  // at their own places in the pool's file: for a guest behind a window
  kArena,        // anywhere: for a guest whose MMU can map any frame
};

struct MemoryManagerOptions {
  PageCount limit;         // of the pool
  PageCount reservations;  // memory of all guests with Placement::kReservation
  bool use_memfd = false;
  GranularityOptions granularity = {};
  CompactionMode compaction = CompactionMode::kBackground;
  int reclaim_threads = 1;
  // Whether guests' equal pages come to share frames while the threads run, and are stored once.
  bool merge = false;
  // Pages of guests with Placement::kReservation that may share frames at a time: each takes mappings of the process.
  PageCount islands = {};
  // Pages that guests may have wired at a time, all together; zero: half of the limit.
  PageCount wired = {};
  MergerOptions merger = {};
  // Opens the stores that compressed pages go to when there are too many of them, in their order. Called once, after
  // what has to be done before there are threads. Null: there are none.
  std::function<absl::StatusOr<std::vector<std::unique_ptr<BackingStore>>>()> open_swap = nullptr;
  // How long a store that is away is counted on to come back, when memory has run out.
  absl::Duration await_swap = SwapArea::kAwaitFor;
  // As SwapSpace's.
  absl::Duration cold_after = SwapSpace::kColdAfter;
  // What the user can do about a pool that is too small, to end the sentence that says so.
  std::string out_of_memory_advice = "raise the pool's limit";
  // As GuestServices::on_stopped.
  std::function<void(GuestMemory&, const absl::Status&)> on_stopped = nullptr;
};

// Thread safe. Guests are removed after their last fault.
class MemoryManager final : private FrameMigrator {
 public:
  static absl::StatusOr<std::unique_ptr<MemoryManager>> Create(MemoryManagerOptions options);
  ~MemoryManager() override;

  // The manager owns the guest. Guests are numbered from 0.
  // Error: there is no room for a reservation, or the limits are too low to run in.
  absl::StatusOr<GuestMemory*> AddGuest(PageCount size, Placement placement, const GuestLimits& limits = {});
  // Makes a template of a guest (GuestMemory::Freeze). Error: why it was stopped.
  absl::Status Freeze(GuestMemory& guest) ABSL_LOCKS_EXCLUDED(guests_lock_);
  // A guest whose memory reads as that of `parent`, which is frozen, and takes none until it is written to. Any number
  // of them, and clones of clones; also while guests run. Takes no time to speak of. Errors: as AddGuest's.
  absl::StatusOr<GuestMemory*> Clone(GuestMemory& parent, const GuestLimits& limits = {});
  // Drops the guest's memory. No secondary MMU is subscribed to it any more. A template may go before its clones: it
  // stays, nameless, until the last of them has gone.
  void RemoveGuest(GuestMemory* guest);

  // The threads of reclaim and compaction, and the prefetcher, run between the two; without them, faults do for
  // themselves what must be done.
  void StartReclaim() {
    reclaimer_.Start();
    compactor_.Start();
    prefetcher_.Start();
    writer_.Start();
    zones_.Start();
    recompressor_.Start();
    merger_.Start();
  }
  void StopReclaim() {
    merger_.Stop();
    recompressor_.Stop();
    zones_.Stop();
    writer_.Stop();
    prefetcher_.Stop();
    compactor_.Stop();
    reclaimer_.Stop();
  }

  Pool& pool() { return *pool_; }
  SwapSpace& store() { return store_; }
  SharedFrames& shared() { return shared_; }
  const IslandBudget& islands() const { return islands_; }
  const SharedReclaimCounters& shared_reclaim() const { return reverse_map_.counters(); }
  Reclaimer& reclaimer() { return reclaimer_; }
  Prefetcher& prefetcher() { return prefetcher_; }
  Compactor& compactor() { return compactor_; }
  Merger& merger() { return merger_; }
  const Merger& merger() const { return merger_; }
  const SharedFrames& shared() const { return shared_; }
  // Whether guests' equal pages come to share frames while the threads run.
  bool merges() const { return merger_.on(); }
  // Has them do so or not, from now on. Once it is off, no page comes to be shared when this returns; what is shared
  // stays so until it is written to.
  void SetMerging(bool on) {
    store_.SetDeduplication(on);
    merger_.SetOn(on);
  }
  // But for where whole blocks may come in, which the next two are about.
  const GranularityOptions& granularity() const { return granularity_; }
  BlockPolicy block_policy() const { return block_policy_.load(std::memory_order_relaxed); }
  // From the next fault on. Blocks that are whole stay so until they go out.
  void SetBlockPolicy(BlockPolicy policy) { block_policy_.store(policy, std::memory_order_relaxed); }
  // CPU time of the thread that writes to swap areas, while it runs.
  absl::Duration writer_cpu_time() { return writer_.cpu_time(); }
  // CPU time of the thread that moves stored bytes together, while it runs.
  absl::Duration zones_cpu_time() { return zones_.cpu_time(); }
  // CPU time of the thread that compresses cold pages once more, while it runs.
  absl::Duration recompressor_cpu_time() { return recompressor_.cpu_time(); }
  const FaultCounters& faults() const { return faults_; }
  const SwapCounters& swap() const { return swap_; }
  // What guests have wired, and what was refused for it.
  const Wiring& wiring() const { return wiring_; }

  // Looks at some shared frames, in proportion to all, or at many; returns how many it freed. Part of reclaim.
  PageCount ReclaimShared(bool many) ABSL_LOCKS_EXCLUDED(guests_lock_);

  // --- Memory that fails (docs/poison.md).

  // What became of a frame and of what was in it.
  struct Poisoned {
    enum class Was : uint8_t {
      kFree,    // nobody had it
      kPage,    // one page's
      kShared,  // that of several pages of the same content
      kStored,  // bytes of compressed pages: a guest that needs one of them is stopped
    } was = Was::kFree;
    FrameNumber frame = {};
    PageCount recovered = {};           // pages that have another frame of the same content now
    PageCount lost = {};                // pages that the next touch finds lost
    std::vector<unsigned> guests = {};  // whose pages those are
  };
  // Takes a frame out of use whose memory has failed, without reading it. May wait for whoever has it in hand.
  // Errors: InvalidArgument     it holds nothing, or has failed before
  //         FailedPrecondition  it holds what nobody can do without: wired memory, tables
  //         Unavailable         it stayed in other hands
  absl::StatusOr<Poisoned> PoisonFrame(FrameNumber frame) ABSL_LOCKS_EXCLUDED(guests_lock_);
  // The same for the frame that a page has. `guest` stays. Error besides: InvalidArgument, the page has none.
  absl::StatusOr<Poisoned> PoisonPage(GuestMemory& guest, Gfn gfn) ABSL_LOCKS_EXCLUDED(guests_lock_);

  // Nobody waits any more for stores that are away: guests that need them are stopped.
  void CancelSwap();

  // Pages of all guests in a state.
  PageCount PagesIn(PageState state);
  // Bookkeeping in ordinary memory, which the pool's limit does not count.
  ByteCount metadata();

  // Verifies every invariant, the guests' ones included. Only while nothing else runs.
  absl::Status Check();

 private:
  MemoryManager(std::unique_ptr<Pool> pool, std::vector<std::unique_ptr<BackingStore>> swap, CandidateTable candidates,
                const MemoryManagerOptions& options);

  // The reverse map: asks the owners that the descriptors name, guests or the store. Pages of one guest's block go
  // together.
  void Migrate(absl::Span<Move> moves, WholeBlocks whole) override;
  Answer Evict(FrameNumber frame, FrameDescriptor owner) override;
  Answer MigrateShared(const Move& move) ABSL_SHARED_LOCKS_REQUIRED(guests_lock_);
  Answer EvictShared(FrameNumber frame) ABSL_SHARED_LOCKS_REQUIRED(guests_lock_);
  absl::StatusOr<GuestMemory*> AddGuest(PageCount size, Placement placement, const GuestLimits& limits,
                                        GuestMemory* parent) ABSL_LOCKS_EXCLUDED(guests_lock_);
  // Returns its template, if that was only kept for it.
  GuestMemory* RemoveOne(GuestMemory* guest) ABSL_LOCKS_EXCLUDED(guests_lock_);
  // Null: it is being removed.
  GuestMemory* FindGuest(GuestId id) ABSL_SHARED_LOCKS_REQUIRED(guests_lock_);

  // Nullopt: somebody has it in hand.
  absl::StatusOr<std::optional<Poisoned>> TryPoison(FrameNumber frame) ABSL_SHARED_LOCKS_REQUIRED(guests_lock_);
  absl::StatusOr<std::optional<Poisoned>> TryPoisonReserved(FrameNumber frame) ABSL_SHARED_LOCKS_REQUIRED(guests_lock_);
  std::optional<Poisoned> TryPoisonOwned(GuestMemory* guest, Gfn gfn, FrameNumber frame);
  std::optional<Poisoned> TryPoisonShared(FrameNumber frame) ABSL_SHARED_LOCKS_REQUIRED(guests_lock_);
  std::optional<Poisoned> TryPoisonStored(FrameNumber frame, FrameDescriptor owner);

  void WithGuests(absl::FunctionRef<void(Merger::Guests)> visit) ABSL_LOCKS_EXCLUDED(guests_lock_);
  // The work of the thread that writes to swap areas: until stored pages keep to their share of the pool.
  void WriteOutSurplus();
  // The work of the thread that moves stored bytes together.
  void CompactZones();
  // The work of the thread that compresses cold pages once more: while memory is short and no area has room, with a
  // sixteenth of a CPU. It is woken when a generation of stored pages ends, so never in a run in which nothing is
  // stored.
  void RecompressCold();
  // Whether a swap area has room and every guest may use it: then memory comes free, however slow that is.
  bool AllCanGoToArea() ABSL_LOCKS_EXCLUDED(guests_lock_);
  // Reclaimer's squeeze: whether the store has made room by writing out, moving together or recompressing what it
  // holds.
  bool SqueezeStore() ABSL_LOCKS_EXCLUDED(guests_lock_);
  // Reclaimer's out_of_memory: stops the guest that holds the most, and frees its memory.
  void OutOfMemory(GuestMemory& asking);
  GuestMemory* LargestGuest(const SwapSpace::Statistics& stored) ABSL_EXCLUSIVE_LOCKS_REQUIRED(guests_lock_);
  // Each slot of the store belongs to as many pages as it counts.
  absl::Status CheckShared() ABSL_EXCLUSIVE_LOCKS_REQUIRED(guests_lock_);
  absl::Status CheckSlots() ABSL_EXCLUSIVE_LOCKS_REQUIRED(guests_lock_);
  absl::Status CheckWired() ABSL_EXCLUSIVE_LOCKS_REQUIRED(guests_lock_);
  // What a guest takes of the pool, its compressed and its shared pages at the average size.
  PageCount Charge(const GuestMemory& guest, const SwapSpace::Statistics& stored) const;

  const std::unique_ptr<Pool> pool_;
  SwapSpace store_;
  SharedFrames shared_;
  IslandBudget islands_;
  Wiring wiring_;
  ReverseMap reverse_map_;
  Reclaimer reclaimer_;
  Prefetcher prefetcher_;
  Compactor compactor_;
  Merger merger_;
  FaultCounters faults_;
  SwapCounters swap_;
  const std::string out_of_memory_advice_;
  const GranularityOptions granularity_;
  std::atomic<BlockPolicy> block_policy_;
  const std::function<void(GuestMemory&, const absl::Status&)> on_stopped_;

  Daemon writer_{"quire-swap", [this] { WriteOutSurplus(); }};
  Daemon zones_{"quire-zones", [this] { CompactZones(); }};
  Daemon recompressor_{"quire-zstd", [this] { RecompressCold(); }};

  absl::Mutex guests_lock_;
  // By ascending number: a template comes before its clones.
  std::vector<std::unique_ptr<GuestMemory>> guests_ ABSL_GUARDED_BY(guests_lock_);
  absl::flat_hash_set<GuestMemory*> orphaned_ ABSL_GUARDED_BY(guests_lock_);  // removed, but kept for their clones
  uint16_t next_guest_ ABSL_GUARDED_BY(guests_lock_) = 0;
};

}  // namespace quire

#endif  // QUIRE_GUEST_MEMORY_MANAGER_H_
