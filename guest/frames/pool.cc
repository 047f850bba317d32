#include "guest/frames/pool.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {
namespace {

// The table of slots may take as much as the whole limit before nothing more can be charged, and those that grow with
// it a thirtieth of that.
PageCount RoomForTables(PageCount limit) {
  return limit + PageCount::OfBlocks((limit / 16).in_blocks_ceil()) + kOneBlock;
}

absl::Status ReclaimFirst() { return absl::UnavailableError("the pool's free memory is at its min watermark"); }

}  // namespace

absl::StatusOr<std::unique_ptr<Pool>> Pool::Create(const PoolOptions& options) {
  if (options.limit < MinimumPoolLimit()) {
    return absl::InvalidArgumentError(absl::StrCat("a pool of ", options.limit.in_bytes() >> 20,
                                                   " MiB is too small to work in: give it at least ",
                                                   MinimumPoolLimit().in_bytes() >> 20, " MiB"));
  }
  PoolOptions rounded = options;
  rounded.limit = PageCount::OfBlocks(options.limit.in_pages() / kPagesPerBlock);
  const PageCount tables = RoomForTables(rounded.limit);
  absl::StatusOr<PoolFile> file = PoolFile::Create({.size = rounded.limit + rounded.reservations + tables,
                                                    .arena = rounded.limit,
                                                    .tables = tables,
                                                    .limit = rounded.limit,
                                                    .use_memfd = rounded.use_memfd});
  if (!file.ok()) return file.status();
  auto pool = absl::WrapUnique(new Pool(rounded, *std::move(file)));
  absl::StatusOr<std::unique_ptr<Arena>> arena = Arena::Create(rounded.limit, pool.get());
  if (!arena.ok()) return arena.status();
  pool->arena_ = *std::move(arena);
  return pool;
}

Pool::Pool(const PoolOptions& options, PoolFile file)
    : file_(std::move(file)),
      budget_(options.limit),
      arena_end_(options.limit.in_pages()),
      next_reservation_(arena_end_),
      tables_(arena_end_ + options.reservations, RoomForTables(options.limit)) {}

absl::StatusOr<FrameRange> Pool::AddReservation(PageCount size) {
  const PageCount rounded = PageCount::OfBlocks(size.in_blocks_ceil());
  absl::MutexLock lock(&reservations_lock_);
  const auto returned = std::find_if(returned_reservations_.begin(), returned_reservations_.end(),
                                     [&](FrameRange range) { return range.size() == rounded; });
  if (returned != returned_reservations_.end()) {
    const FrameRange range = *returned;
    returned_reservations_.erase(returned);
    return range;
  }
  const FrameRange range(next_reservation_, rounded);
  if (range.end() > tables_.begin()) {
    return absl::InvalidArgumentError("the pool was made without room for this reservation");
  }
  next_reservation_ = range.end();
  has_reservations_ = true;
  return range;
}

void Pool::ReturnReservation(FrameRange range) {
  absl::MutexLock lock(&reservations_lock_);
  returned_reservations_.push_back(range);
}

bool Pool::ChargeReserved(PageCount pages) {
  const PageCount kept = watermarks().min - ScatteredReserve() + kept_for_tables_;
  if (budget_.TryCharge(pages, kept)) return true;
  // Blocks that the arena keeps in case it needs them again serve better here.
  if (arena_->ReturnFreeBlocks(pages) > PageCount() && budget_.TryCharge(pages, kept)) return true;
  // More is scattered than stands for the reserve: gathered, it would be of use here.
  if (ScatteredFrames() >= watermarks().min + kOneBlock) NoticeScattered();
  return false;
}

absl::Status Pool::PopulateReserved(FrameRange range) {
  if (!ChargeReserved(range.size())) return ReclaimFirst();
  reserved_populated_.Add(range.size().in_pages());
  if (const PageCount twice = ClaimLingering(range); twice > PageCount()) UnchargeReserved(twice);
  const bool whole = range.size() == kOneBlock;
  if (absl::Status status = whole ? file_.PopulateBlock(range) : file_.PopulatePages(range); !status.ok()) {
    ReleaseReserved(range);  // what was populated before it failed
    return status;
  }
  NoticePressure();
  return absl::OkStatus();
}

void Pool::ReleaseReserved(FrameRange range) {
  if (file_.Punch(range)) {
    UnchargeReserved(range.size());
  } else {
    Linger(range);
  }
  if (lingering_count_.load(std::memory_order_relaxed) > 0) PunchLingering();
}

// --- Tables.

FrameRange Pool::AddTable(PageCount size) {
  absl::MutexLock lock(&tables_lock_);
  kept_for_tables_ = kTableReserve;
  FrameNumber first = tables_.begin();
  auto place = taken_tables_.begin();
  while (place != taken_tables_.end() && place->begin() - first < size) first = (place++)->end();
  QUIRE_CHECK(first + size <= tables_.end());
  return *taken_tables_.insert(place, FrameRange(first, size));
}

void Pool::RemoveTable(FrameRange range) {
  absl::MutexLock lock(&tables_lock_);
  const auto place = std::find(taken_tables_.begin(), taken_tables_.end(), range);
  QUIRE_CHECK(place != taken_tables_.end());
  taken_tables_.erase(place);
}

bool Pool::ChargeTable(PageCount pages) {
  if (budget_.TryCharge(pages, PageCount())) return true;
  return arena_->ReturnFreeBlocks(pages) > PageCount() && budget_.TryCharge(pages, PageCount());
}

absl::Status Pool::PopulateTable(FrameRange range) {
  const bool charged = ChargeTable(range.size());
  // The reserve is to be filled up again before it is gone. Where memory is in reservations, pages that they free do
  // that; where the arena has it, only a block that is free as a whole.
  if (IsShortForTables() && arena_->ReturnFreeBlocks(kOneBlock) == PageCount()) NoticeScattered();
  if (!charged) return ReclaimFirst();
  reserved_populated_.Add(range.size().in_pages());
  if (const PageCount twice = ClaimLingering(range); twice > PageCount()) UnchargeReserved(twice);
  if (absl::Status status = file_.PopulatePages(range); !status.ok()) {
    ReleaseReserved(range);  // what was populated before it failed
    return status;
  }
  NoticePressure();
  return absl::OkStatus();
}

bool Pool::IsShortForTables() const { return budget_.charged() + kept_for_tables_ / 2 > budget_.limit(); }

bool Pool::MakeRoomForTables() {
  if (arena_->ReturnFreeBlocks(kOneBlock) > PageCount()) return true;
  if (compaction_ == nullptr || compaction_->MakeFreeBlocks(1) == 0) return false;
  arena_->ReturnFreeBlocks(kOneBlock);
  return !IsShortForTables();
}

void Pool::UnchargeReserved(PageCount pages) {
  reserved_populated_.Subtract(pages.in_pages());
  budget_.Uncharge(pages);
}

void Pool::Linger(FrameRange range) {
  absl::MutexLock lock(&lingering_lock_);
  for (FrameNumber frame = range.begin(); frame < range.end(); ++frame) lingering_.insert(frame);
  lingering_count_ = lingering_.size();
}

PageCount Pool::ClaimLingering(FrameRange range) {
  if (lingering_count_.load(std::memory_order_relaxed) == 0) return PageCount();
  absl::MutexLock lock(&lingering_lock_);
  PageCount claimed;
  for (FrameNumber frame = range.begin(); frame < range.end(); ++frame) claimed += PageCount(lingering_.erase(frame));
  lingering_count_ = lingering_.size();
  return claimed;
}

void Pool::PunchLingering() {
  absl::MutexLock lock(&lingering_lock_);
  PageCount gone;
  for (auto frame = lingering_.begin(); frame != lingering_.end();) {
    const auto next = std::next(frame);
    if (file_.Punch(FrameRange(*frame, kOnePage))) {
      lingering_.erase(frame);
      gone += kOnePage;
    }
    frame = next;
  }
  lingering_count_ = lingering_.size();
  if (gone > PageCount()) UnchargeReserved(gone);
}

absl::StatusOr<FrameNumber> Pool::AllocateFrame() {
  // The watermark is kept here, for the sum of all free memory; below it the arena may take any block it can get.
  if (FreeFrames() <= watermarks().min) return ReclaimFirst();
  absl::StatusOr<FrameNumber> frame = arena_->Allocate(0, Reserve::kReclaim);
  NoticePressure();
  return frame;
}

absl::StatusOr<FrameNumber> Pool::AllocateBlock() {
  if (!HasRoomForBlock()) return ReclaimFirst();
  absl::StatusOr<FrameNumber> first = arena_->Allocate(kBlockOrder, Reserve::kNormal);
  NoticePressure();
  // There are enough free frames, but no 512 of them side by side.
  if (!absl::IsUnavailable(first.status())) return first;
  NoticeScattered();
  return absl::FailedPreconditionError(first.status().message());
}

void Pool::FreeFrames(FrameRange range) {
  if (range.size() == kOnePage) {
    arena_->Free(range.begin(), 0);
  } else {
    arena_->FreeContiguous(range);
  }
}

absl::StatusOr<FrameRange> Pool::AllocateWired(const ContiguousRequest& request) {
  absl::StatusOr<FrameRange> range = arena_->AllocateContiguous(request, Reserve::kNormal);
  if (absl::IsUnavailable(range.status()) && compaction_ != nullptr) {
    range = compaction_->AllocateContiguous(request, Reserve::kNormal);
  }
  if (!range.ok()) return range;
  arena_->frames().Fill(*range, FrameDescriptor::Wired());
  std::memset(Frame(range->begin()), 0, range->size().in_bytes());
  wired_.Add(range->size().in_pages());
  return range;
}

void Pool::RetireFrame(FrameNumber frame) {
  if (frame < arena_end_) {
    arena_->frames().Set(frame, FrameDescriptor::Poisoned());
  } else if (const FrameRange range(frame, kOnePage); file_.Punch(range)) {
    reserved_populated_.Subtract();
    poisoned_reserved_.Add();
  } else {
    Linger(range);
    return;
  }
  poisoned_.Add();
}

// What is about to be allocated or freed by others is neither.
bool Pool::RetireFree(FrameNumber frame) {
  arena_->DrainCpuLists();
  const ContiguousRequest request{.count = kOnePage, .within = FrameRange(frame, kOnePage)};
  if (!arena_->AllocateContiguous(request, Reserve::kReclaim).ok()) return false;
  RetireFrame(frame);
  return true;
}

void Pool::FreeWired(FrameRange range) {
  wired_.Subtract(range.size().in_pages());
  arena_->FreeContiguous(range);
}

PageCount Pool::FreePages() const {
  return has_reservations_ ? Uncharged() + arena_->counts().free_in_whole_blocks + ScatteredReserve() : FreeFrames();
}

PageCount Pool::ScatteredReserve() const { return std::min(ScatteredFrames(), watermarks().min); }

PageCount Pool::ScatteredFrames() const {
  const ArenaCounts arena = arena_->counts();
  return arena.free - arena.free_in_whole_blocks;
}

PageCount Pool::FreeFrames() const { return Uncharged() + arena_->counts().free; }

absl::Status Pool::AcquireBlock(FrameRange block, Reserve reserve) {
  const PageCount kept = (reserve == Reserve::kNormal ? watermarks().min : PageCount()) + kept_for_tables_;
  if (!budget_.TryCharge(block.size(), kept)) return ReclaimFirst();
  absl::Status status = file_.PopulateBlock(block);
  if (!status.ok()) ReturnBlock(block);  // what was populated before it failed
  return status;
}

void Pool::ReturnBlock(FrameRange block) {
  QUIRE_CHECK(file_.Punch(block));
  budget_.Uncharge(block.size());
}

ByteCount Pool::metadata() const { return arena_->metadata_size() + ByteCount::Bytes(sizeof *this); }

absl::Status Pool::Check() {
  if (absl::Status status = arena_->Check(); !status.ok()) return status;
  if (arena_->IsIsolating()) return absl::InternalError("invariant 12: a range is isolated, and nobody empties it");
  const PageCount live = arena_->counts().live;
  const PageCount expected = live + PageCount(reserved_populated_.value() + poisoned_reserved_.value());
  if (budget_.charged() != expected) {
    return absl::InternalError(absl::StrCat("invariant 9: the budget says ", budget_.charged().in_pages(),
                                            " pages are charged, but ", live.in_pages(), " are live in the arena and ",
                                            reserved_populated_.value(), " in reservations and tables, and ",
                                            poisoned_reserved_.value(), " of those have failed"));
  }
  if (file_.PopulatedPages() > budget_.charged()) {
    return absl::InternalError(absl::StrCat("invariant 9: the pool's file holds ", file_.PopulatedPages().in_pages(),
                                            " pages, but ", budget_.charged().in_pages(), " are charged"));
  }
  return absl::OkStatus();
}

}  // namespace quire
