// The pool: all memory that guests and their bookkeeping-in-memory (compressed pages, their tables, wired regions) may
// use.
//
//   frame 0                     arena end                                                     end of file
//   | arena: as long as the limit | reservation of guest 0 | reservation of guest 1 | ... | tables |
//
// The arena's blocks, and the pages of reservations and tables, are populated on demand and charged to one budget.
#ifndef QUIRE_GUEST_FRAMES_POOL_H_
#define QUIRE_GUEST_FRAMES_POOL_H_

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/counters.h"
#include "base/units.h"
#include "guest/frames/arena.h"
#include "guest/frames/buddy.h"
#include "guest/frames/budget.h"
#include "guest/frames/compaction.h"
#include "guest/frames/pool_file.h"

namespace quire {

struct PoolOptions {
  PageCount limit;         // at least MinimumPoolLimit(); rounded down to whole blocks
  PageCount reservations;  // room for all calls of AddReservation together; each is rounded up to whole blocks
  bool use_memfd = false;
};

// Thread safe, except for EnableCompaction and the setters of callbacks, which belong to the time
// before guests run.
//
// Two errors come out of allocation. Unavailable: free memory is at its min watermark, reclaim and try again.
// ResourceExhausted: the host itself has no memory; trying again is of no use.
class Pool final : private BlockSource {
 public:
  static absl::StatusOr<std::unique_ptr<Pool>> Create(const PoolOptions& options);
  ~Pool() override = default;

  // --- Reservations: frames that belong to one guest by their place in the file.

  // A range of whole blocks that nobody else uses; nothing is charged for it.
  absl::StatusOr<FrameRange> AddReservation(PageCount size) ABSL_LOCKS_EXCLUDED(reservations_lock_);
  // A range that AddReservation returned, of which nothing is populated any more, may be another's.
  void ReturnReservation(FrameRange range) ABSL_LOCKS_EXCLUDED(reservations_lock_);
  // Whether reservations can have blocks that are populated, and so mapped, as a whole.
  bool reservations_have_blocks() const { return file_.reservations_have_blocks(); }
  // Populates holes of a reservation with zero pages; a whole block at once, as one 2 MiB page.
  absl::Status PopulateReserved(FrameRange range);
  // Gives populated pages of a reservation back. Nobody maps them any more.
  void ReleaseReserved(FrameRange range);

  // --- Tables: what reclaim has to remember of the memory that it makes (pool_table.h).

  // A range for one table, which need not be larger than the limit: more could not be charged. Nothing is charged for
  // it. From the first one on, kTableReserve pages are left to tables by everybody else.
  FrameRange AddTable(PageCount size) ABSL_LOCKS_EXCLUDED(tables_lock_);
  // Its populated pages have been released.
  void RemoveTable(FrameRange range) ABSL_LOCKS_EXCLUDED(tables_lock_);
  // Populates holes of a table with zero pages. May use all memory that is not charged; never waits for reclaim.
  absl::Status PopulateTable(FrameRange range);

  // Memory that only tables may take: enough for those of 12,000 more stored pages. Without it, they could not grow
  // where the arena has all other memory: free frames of its blocks are of no use to them.
  static constexpr PageCount kTableReserve{64};
  // Whether so much has been taken of it that a table may not be able to grow once more.
  bool IsShortForTables() const;
  // Frees a block of the arena for them, by moving pages if it may; false: none can be freed. The caller holds no lock
  // of guests' memory.
  bool MakeRoomForTables();

  // --- The arena.

  // A frame of unknown content for a guest's page.
  absl::StatusOr<FrameNumber> AllocateFrame();
  // 512 adjacent frames for a guest's block. Errors as for AllocateFrame, and FailedPrecondition: free frames are
  // scattered.
  absl::StatusOr<FrameNumber> AllocateBlock();
  void FreeFrames(FrameRange range);
  void FreeFrame(FrameNumber frame) { FreeFrames(FrameRange(frame, kOnePage)); }
  Arena& arena() { return *arena_; }
  // Frames for good: page tables, images, whatever a device must find in one piece. Zeroed. Where compaction is
  // enabled, pages that are in the way are moved if free memory suffices otherwise; the caller then holds no lock of
  // guests' memory. Errors: those of Arena::AllocateContiguous.
  absl::StatusOr<FrameRange> AllocateWired(const ContiguousRequest& request);
  absl::StatusOr<FrameRange> AllocateWired(PageCount size) {
    return AllocateWired({.count = size, .within = arena_->range()});
  }
  void FreeWired(FrameRange range);

  // From now on pages of the arena may be moved. `migrator` must live as long as anything is allocated.
  void EnableCompaction(FrameMigrator* migrator) { compaction_ = std::make_unique<Compaction>(arena_.get(), migrator); }
  // Null: pages are never moved.
  Compaction* compaction() { return compaction_.get(); }
  // Whether there is so much free memory that a whole block of it is to be had, if it is not scattered.
  bool HasRoomForBlock() const { return FreeFrames() >= watermarks().min + kOneBlock; }

  // The manager's own view of 512 frames that were populated at once, from `first` on.
  std::byte* BlockOfFrames(FrameNumber first) const { return file_.HugeAlias(first); }
  // The manager's own view of a frame; valid as long as the pool.
  std::byte* Frame(FrameNumber frame) const {
    return frame < arena_end_ ? file_.HugeAlias(frame) : file_.SmallAlias(frame);
  }

  // --- Frames whose memory has failed (docs/poison.md). They stay charged for good.

  // Takes a frame out of use that its owner has given up; nobody maps it any more. At the place of one of a reservation
  // the host has another page when that is populated next; one of the arena is never allocated again.
  void RetireFrame(FrameNumber frame);
  // The same for a frame of the arena that is free. False: it is not.
  bool RetireFree(FrameNumber frame);
  PageCount poisoned() const { return PageCount(poisoned_.value()); }

  // --- Levels.

  // What every guest could still take, and the reserve for reclaim. A reservation can use nothing of an arena block
  // that is partly in use, but reclaim can: such scattered frames stand for the reserve, as far as they go.
  PageCount FreePages() const;
  // What those could take that live in the arena; more than FreePages() if there are reservations too.
  PageCount FreeFrames() const;
  // With less free memory than this nobody should keep what he could do without: an eighth of the limit.
  PageCount comfortable() const { return std::max(PageCount(budget_.limit().in_pages() / 8), watermarks().high); }
  const Watermarks& watermarks() const { return budget_.watermarks(); }
  const Budget& budget() const { return budget_; }
  PageCount wired() const { return PageCount(wired_.value()); }
  const PoolFile& file() const { return file_; }
  // Called, possibly often and by any thread that allocates, while free memory is below the low watermark.
  void SetLowMemoryCallback(std::function<void()> callback) { low_memory_ = std::move(callback); }

  // Called, possibly often and by any thread, also under the lock of a guest's block, when a whole block, or memory for
  // a reservation, is refused although it would be there if free frames were not scattered.
  void SetScatteredCallback(std::function<void()> callback) { scattered_ = std::move(callback); }

  // Bookkeeping in ordinary memory.
  ByteCount metadata() const;

  // The budget says what the file holds, and the arena is sound. Only while nothing else runs.
  absl::Status Check();

 private:
  Pool(const PoolOptions& options, PoolFile file);

  absl::Status AcquireBlock(FrameRange block, Reserve reserve) override;
  void ReturnBlock(FrameRange block) override;
  // What others than tables may still charge: whole blocks where only the arena does.
  PageCount Uncharged() const {
    const PageCount taken = budget_.charged() + kept_for_tables_;
    const PageCount pages = budget_.limit() - std::min(budget_.limit(), taken);
    return has_reservations_ ? pages : PageCount::OfBlocks(pages.in_pages() / kPagesPerBlock);
  }
  // The part of the min watermark that scattered arena frames stand for.
  PageCount ScatteredReserve() const;
  PageCount ScatteredFrames() const;
  bool ChargeReserved(PageCount pages);
  bool ChargeTable(PageCount pages);
  void UnchargeReserved(PageCount pages);
  // Pages of reservations that nobody owns, but that the host kernel would not let go (PoolFile::Punch). They stay
  // charged until it does, or until they are wanted again.
  void Linger(FrameRange range) ABSL_LOCKS_EXCLUDED(lingering_lock_);
  // Takes the lingering pages of `range` off the list, for an owner who populates them, and returns how many they were.
  PageCount ClaimLingering(FrameRange range) ABSL_LOCKS_EXCLUDED(lingering_lock_);
  void PunchLingering() ABSL_LOCKS_EXCLUDED(lingering_lock_);
  void NoticeScattered() {
    if (scattered_) scattered_();
  }
  void NoticePressure() {
    if (FreePages() < watermarks().low && low_memory_) low_memory_();
  }

  PoolFile file_;
  Budget budget_;
  const FrameNumber arena_end_;
  absl::Mutex reservations_lock_;  // a leaf
  FrameNumber next_reservation_ ABSL_GUARDED_BY(reservations_lock_);
  std::vector<FrameRange> returned_reservations_ ABSL_GUARDED_BY(reservations_lock_);
  const FrameRange tables_;
  std::atomic<bool> has_reservations_ = false;
  std::function<void()> low_memory_;
  absl::Mutex tables_lock_;                                             // a leaf
  std::vector<FrameRange> taken_tables_ ABSL_GUARDED_BY(tables_lock_);  // in their order
  PageCount kept_for_tables_;
  Gauge reserved_populated_;    // of reservations, lingering pages included, and of tables
  absl::Mutex lingering_lock_;  // a leaf; held while a lingering page is punched, so that nobody populates it meanwhile
  absl::flat_hash_set<FrameNumber> lingering_ ABSL_GUARDED_BY(lingering_lock_);
  std::atomic<size_t> lingering_count_ = 0;  // the set's size, for those who find it empty: nearly always
  std::function<void()> scattered_;
  Gauge wired_;
  Gauge poisoned_;
  Gauge poisoned_reserved_;       // of them, at places of reservations
  std::unique_ptr<Arena> arena_;  // after the others, which it uses
  std::unique_ptr<Compaction> compaction_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_POOL_H_
