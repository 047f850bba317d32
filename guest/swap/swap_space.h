// Where pages go that guests do not use: compressed with LZ4 and kept in the pool, as long as they are warm and the
// pool has room for them; then written to swap areas, files or NBD exports, as they were compressed. What has grown old
// in the pool can be compressed once more, with zstd.
//
//               Store                      WriteOut: the oldest first
//     page ------------> [ in the pool ] -----------------------------> [ in a swap area ]
//       ^                  |  | Load  ^                                      | Fetch: bytes of many slots at once,
//       +------------------|--+-------|--------------------------------------+ then Load
//                          +----------+ Recompress: the old ones
//
// A page that equals one in the pool shares its slot, where hints are given (deduplicate.cc).
//
// A page of one repeated 8-byte word is stored as that word. A page that does not compress goes to an area at once,
// together with others of its block, and as it is. Every page carries a hash of its content (XXH3), kept apart from its
// bytes, so that damage is found whichever side it happens to.
//
// A slot's record is guarded by a lock (SlotTable::LockOf) that is held while its bytes are copied, so that nobody
// takes them away meanwhile, and never across a transfer: who writes marks the slot, and looks again when the transfer
// is done; who reads finds out whether the slot still has its bytes there.
#ifndef QUIRE_GUEST_SWAP_SWAP_SPACE_H_
#define QUIRE_GUEST_SWAP_SWAP_SPACE_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/counters.h"
#include "base/units.h"
#include "guest/frames/compaction.h"
#include "guest/frames/frame_table.h"
#include "guest/swap/backing_store.h"
#include "guest/swap/duplicate_hints.h"
#include "guest/swap/fetched_pages.h"
#include "guest/swap/keg.h"
#include "guest/swap/slab_zone.h"
#include "guest/swap/slot_record.h"
#include "guest/swap/slot_table.h"
#include "guest/swap/swap_area.h"
#include "guest/swap/swap_slot.h"
#include "guest/swap/zone.h"
#include "guest/swap/zstd_page.h"

namespace quire {

enum class StoreOutcome : uint8_t {
  kStored,
  kStoredAsIs,      // it does not compress, and takes a whole page of the pool
  kUnchanged,       // a copy that was kept is as it is; no answer of Store's
  kZero,            // nothing to store: the page reads as zero
  kIncompressible,  // it would save less than a tenth of a page
  kNoRoom,          // there is no memory left for it
  kOverLimit,       // its guest has as many stored as it may; no answer of the store's
};

// What becomes of a page that does not compress.
enum class Incompressible : uint8_t { kRefuse, kStoreAsIs };

struct StoreResult {
  StoreOutcome outcome;
  SwapSlot slot;  // if kStored or kStoredAsIs
};

// What compressing pages takes; a thread keeps one for all its pages.
class CompressionScratch {
 public:
  CompressionScratch();
  ~CompressionScratch();

 private:
  friend class SwapSpace;
  std::unique_ptr<std::byte[]> state_;
  std::unique_ptr<std::byte[]> output_;
  SlotTable::Cursor cursor_;
};

// Thread safe. A slot has an owner, or several that share it; none loads or frees it from two threads at once.
class SwapSpace {
 public:
  // `areas`, in the order in which they are filled, at most 255. `await_for`: as SwapArea's. `cold_after`: how long a
  // page has been in the pool at least before it counts as cold.
  explicit SwapSpace(Pool& pool, std::vector<std::unique_ptr<BackingStore>> areas = {},
                     absl::Duration await_for = SwapArea::kAwaitFor, absl::Duration cold_after = kColdAfter);
  // Generations alone say nothing about that: where guests touch more than there is memory for, in no order, three of
  // them pass in less than a second, and the pages are as likely to come back as any.
  static constexpr absl::Duration kColdAfter = absl::Seconds(10);
  ~SwapSpace();

  // From now on equal pages are stored once. Before anything is stored.
  void SetDuplicateHints(DuplicateHints hints) { hints_.emplace(std::move(hints)); }
  // Whether they are, where there are hints; at any time. What has been stored before stays as it is.
  void SetDeduplication(bool on) { deduplicates_.store(on, std::memory_order_relaxed); }

  // Whether the 4 KiB at `page` are all zeros: there is nothing to store then.
  static bool IsZero(const std::byte* page);

  // Stores the 4 KiB at `page`, which nobody writes meanwhile, or has the slot shared that has them. Takes pool memory
  // with Reserve::kReclaim; never waits.
  StoreResult Store(const std::byte* page, CompressionScratch& scratch,
                    Incompressible incompressible = Incompressible::kRefuse);
  // The pages that are stored next with this scratch belong together, 512 of them.
  void BeginBlock(CompressionScratch& scratch) { slots_.BeginCluster(scratch.cursor_); }

  // A page that Store refused, and what becomes of it.
  struct Refused {
    const std::byte* page;
    StoreResult* result;
  };
  // Writes pages that do not compress to an area, at most 16, and waits for the transfer. Their results are kStored
  // then; kNoRoom if no area takes them now; and unchanged if none ever will.
  void WriteThrough(absl::Span<const Refused> pages, CompressionScratch& scratch);

  // Writes the stored content to the 4 KiB at `page`; the slot stays. `fetched`: what was read from areas.
  // Errors: DataLoss     what is stored is damaged
  //         Unavailable  it lies in an area, and has to be fetched first
  absl::Status Load(SwapSlot slot, std::byte* page, const FetchedPages& fetched = {});
  bool IsInArea(SwapSlot slot) const;
  // Whether Load needs to have the slot fetched.
  bool NeedsFetch(SwapSlot slot, const FetchedPages& fetched) const;
  // Reads what of these slots lies in areas: at most 512, the nearer to each other the better. They may be freed or
  // change their place meanwhile; those that did are missing from the result. Waits; the caller holds no lock of
  // guests' memory. Errors: those of BackingStore::Read.
  absl::StatusOr<FetchedPages> Fetch(absl::Span<const SwapSlot> slots);
  void Free(SwapSlot slot);
  // One more page has this content, and is to be freed like the first. False: as many pages have it as can be counted.
  bool Share(SwapSlot slot);

  // --- Copies of pages that have frames again. The owner keeps the slot, and frees it some time; its bytes may be
  // dropped before.

  // The slot's page has been loaded. False: memory or room are too dear for a copy, and the slot is as it was.
  bool Keep(SwapSlot slot);
  bool IsKept(SwapSlot slot) const;
  // Whether the copy is still there, and equal to the 4 KiB at `page`, as far as its hash says.
  bool Holds(SwapSlot kept, const std::byte* page) const;
  // Makes the copy the page's content again. False: it has been dropped.
  bool Revive(SwapSlot kept);
  // Drops copies in the pool until about so many frames are free, or there are no more. Returns how many it was.
  PageCount DropKept(PageCount wanted);

  // Writes the pages that were stored longest ago to areas, at least so many bytes if there are, and returns how many
  // it was, or for how many there is room now. Waits for the transfers, and for others who do the same.
  ByteCount WriteOut(ByteCount wanted) ABSL_LOCKS_EXCLUDED(write_lock_);
  bool has_areas() const { return !areas_.empty(); }
  // Whether there is one that has not failed.
  bool has_live_areas() const;
  // How long a fault sleeps before it tries again, when nothing can be stored now but may be later.
  static constexpr absl::Duration kAwaitArea = absl::Milliseconds(10);
  // Whether an area is away that is expected back, so that there may be room again.
  bool IsAwaitingArea() const;
  // Whether an area has room: every page can be stored sooner or later.
  bool HasRoomInArea() const;
  // What has become of the areas, to be added to a sentence: each begins with a semicolon.
  std::string DescribeAreas() const;
  // Whether stored pages take more of the pool than is left to them: half of it. The rest is for guests to work in.
  bool IsOverShare() const { return has_areas() && zone_.held() > share_; }
  // `callback` is called whenever that is so after a page was stored; cheap, and takes leaf locks only.
  void SetOverShareCallback(std::function<void()> callback) { over_share_ = std::move(callback); }

  // Which pages are compressed once more.
  enum class Age : uint8_t {
    kCold,  // three generations old, as those that go to areas first, and for `cold_after` in the pool
    kAny,
  };
  struct Recompressed {
    PageCount tried;
    PageCount smaller;  // of them
    ByteCount saved;
  };
  // Compresses pages in the pool with zstd, which takes some 40 us a page; each is tried once, and stays as it is if
  // little is gained. Stops when `most` have been tried, or when there is no room. Takes pool memory with
  // Reserve::kReclaim. Waits for others who do the same, and for nothing else.
  Recompressed Recompress(PageCount most, Age age = Age::kCold) ABSL_LOCKS_EXCLUDED(recompress_lock_);
  // `callback` is called when a generation ends, so that pages have grown old; cheap, and takes leaf locks only.
  void SetGenerationCallback(std::function<void()> callback) { generation_ended_ = std::move(callback); }

  // Moves stored bytes together, until about so many frames are free or all are as few as can be; returns how many it
  // was. Waits for others who do the same, and for nothing else; the caller holds no lock of guests' memory.
  PageCount CompactZone(PageCount wanted) ABSL_LOCKS_EXCLUDED(compact_lock_);
  // Whether that is worth it: more than a thirty-second of the frames would be won. Looks at each size.
  bool IsScattered() const;
  // `callback` is called now and then when that is so after pages were freed or written out; cheap, and called under
  // the locks of whoever frees a page.
  void SetScatteredCallback(std::function<void()> callback) { scattered_ = std::move(callback); }

  // As FrameMigrator::Migrate, for a frame of the store. Stored pages stay readable meanwhile.
  FrameMigrator::Answer Migrate(FrameNumber from, FrameDescriptor owner, FrameNumber to) {
    return zone_.Migrate(from, owner, to);
  }

  // A frame of the store whose memory has failed gives its place to `to`, which is allocated, and is taken out of use.
  // What was stored in it is lost: whoever loads it is told (DataLoss). Copies that were kept are dropped, so that none
  // is taken for a page's content. Answers as Migrate's.
  FrameMigrator::Answer ReplacePoisoned(FrameNumber from, FrameDescriptor owner, FrameNumber to);

  struct Statistics {
    PageCount stored;        // pages, wherever they are
    PageCount shared;        // of them: beyond the first of each slot
    uint64_t deduplicated;   // pages that came to share a slot because an equal one had it, since the beginning
    PageCount same_filled;   // of the stored: of one word
    PageCount kept;          // copies of other pages, which have frames
    PageCount in_pool;       // pages and copies whose bytes are in the pool
    ByteCount stored_bytes;  // bytes that those take, compressed or not
    PageCount held;          // frames that hold them
    uint64_t recompressed;   // pages, since the beginning
    ByteCount recompression_saved;
    uint64_t errors;  // damaged pages found in the pool
  };
  // What lies ready in per-CPU buckets is given back for it, so that `held` is exact.
  Statistics statistics() const;
  // Of the compressed pages, by their size; and of the tables of slots, clusters of slots and slabs.
  std::vector<ZoneStatistics> zones() const;
  const std::vector<std::unique_ptr<SwapArea>>& areas() const { return areas_; }
  // Bookkeeping in ordinary memory. The tables are none of it: they lie in the pool.
  ByteCount metadata() const;
  bool IsLive(SwapSlot slot) const { return RefsOf(slot) > 0; }
  // How many pages have this content; 0 for a copy that was kept, and for a slot that is free.
  uint32_t RefsOf(SwapSlot slot) const;
  // What the pool has to hold for so many stored pages, wherever their bytes are.
  static constexpr PageCount TablesFor(PageCount stored) {
    return PageCount::Ceil(SlotTable::SizeOf(stored.in_pages()));
  }
  // Where a stored page is, for explanations. It may have changed since.
  struct SlotFacts {
    enum class Where : uint8_t { kRecord, kPool, kArea, kNowhere } where = Where::kNowhere;
    uint64_t length = 0;    // bytes stored; kPageSize: the page as it is
    bool zstd = false;      // or LZ4
    uint32_t pages = 0;     // that have this content
    std::string area = {};  // if it is in one
  };
  SlotFacts Describe(SwapSlot slot) const;
  // Only while nothing else runs.
  absl::Status Check();

  // Has all pages have the same hash, before anything is stored: as a guest would that could choose it.
  void CollideHashesForTesting() { hash_mask_ = 0; }
  // Inverts one stored byte, so that tests can see damage found. The slot holds a compressed page in the pool.
  void DamageForTesting(SwapSlot slot);

 private:
  static constexpr uint8_t kOldest = 3;  // generations

  // Pages on their way to an area.
  class Batch;

  // The slot of an equal page, of which the page is one more owner.
  std::optional<SwapSlot> ShareEqual(const std::byte* page, uint64_t hash);
  // Whether bytes in the pool are those of the page. The caller holds the slot's lock, as for the next one.
  bool HasContent(const SlotRecord& record, const std::byte* page) const;
  // False: as many pages have it as can be counted.
  bool AddReference(SlotRecord& record);
  StoreResult StoreBytes(uint64_t hash, absl::Span<const std::byte> bytes, StoreOutcome outcome,
                         CompressionScratch& scratch);
  // In a slot that was allocated.
  void PutRecord(const SlotRecord& record, SwapSlot slot);
  // Turns stored bytes into a page and checks it.
  absl::Status Unpack(SwapSlot slot, const SlotRecord& record, const std::byte* bytes, std::byte* page) const;
  // Empty: nothing, and the page is made.
  absl::string_view WhatIsWrong(const SlotRecord& record, const std::byte* bytes, std::byte* page) const;
  bool Decompress(const SlotRecord& record, const std::byte* bytes, std::byte* page) const;
  absl::Status Damaged(SwapSlot slot, const SlotRecord& record, absl::string_view what) const;

  uint64_t HashOf(const std::byte* page) const;
  bool HasRoomToKeep(const SlotRecord& record) const;
  bool IsCopyUsable(const SlotRecord& record) const;
  // Where a kept copy is counted, by where its bytes are.
  Gauge& KeptGauge(const SlotRecord& record);
  // Drops copies that lie there: in the pool, or in an area; as long as `more` says so.
  void DropKept(const SwapArea* area, absl::FunctionRef<bool()> more);
  void DropCopy(SlotRecord& record);
  void FreeBytes(const SlotRecord& record);
  // The bytes in the pool; `buffer` has room for SlabZone::kMaxObject, or as many as there are.
  const std::byte* CopyBytes(const SlotRecord& record, std::byte* buffer) const;
  void NoticeFreed(uint32_t pages);
  PageCount CompactZone(Zone& zone, PageCount wanted) ABSL_EXCLUSIVE_LOCKS_REQUIRED(compact_lock_);
  // False: it is not its owner's any more, or cannot be moved now.
  bool MoveObject(Keg& keg, const Keg::Owned& owned);

  bool RecompressCluster(SwapSlot first, uint8_t least_age, PageCount most, Recompressed& sum)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(recompress_lock_);
  bool RecompressPage(SwapSlot slot, Recompressed& sum) ABSL_EXCLUSIVE_LOCKS_REQUIRED(recompress_lock_);
  bool Replace(SwapSlot slot, const SlotRecord& before, SlabObject object, size_t length);
  // Whether the slot has the same bytes still, wherever they are. The caller holds the slot's lock.
  bool IsStill(SwapSlot slot, const SlotRecord& before) const;

  struct Wanted {
    SwapSlot slot;
    SlotRecord record;  // as it was
  };
  // `wanted` lies in this area, and is in the order of its places.
  absl::Status FetchFrom(SwapArea& area, absl::Span<const Wanted> wanted, FetchedPages& fetched);

  // Slots for refused pages, one each.
  using RefusedSlots = absl::InlinedVector<SwapSlot, SwapArea::kClusterBytes / kPageSize>;
  bool WriteThroughTo(SwapArea& area, absl::Span<const Refused> pages, const RefusedSlots& slots);
  uint8_t NumberOf(const SwapArea& area) const;
  // Fills the batch with what was stored longest ago.
  void Collect(Batch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_lock_);
  bool CollectFromCluster(SwapSlot first, uint8_t generation, Batch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_lock_);
  // Writes the batch, and leaves its pages where they are if that fails: false.
  bool WriteBatch(SwapArea& area, Batch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_lock_);
  void Settle(SwapSlot slot, uint64_t from, uint64_t to, SwapArea& area, bool written);
  void MakeRoomIn(SwapArea& area);
  ByteCount WriteOutTo(SwapArea& area, ByteCount wanted) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_lock_);
  // False: nothing is to be won by it.
  bool Clean(SwapArea& area) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_lock_);
  // The same unless somebody else writes or cleans.
  bool CleanIfIdle(SwapArea& area) ABSL_LOCKS_EXCLUDED(write_lock_);
  bool ReadVictims(SwapArea& area, absl::Span<const uint32_t> victims, std::byte* bytes);
  void CollectFromVictims(SwapSlot first, SwapArea& area, absl::Span<const uint32_t> victims, const std::byte* bytes,
                          Batch& batch);
  void AllocateBuffer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_lock_);

  void EndGeneration();
  // How many generations old a page is that is cold now; none: no page is.
  std::optional<uint8_t> ColdAge() const;

  Pool& pool_;
  const uint64_t hash_seed_;  // so that no guest can make two pages that look equal
  uint64_t hash_mask_ = ~uint64_t{0};
  const PageCount share_;
  const absl::Duration cold_after_;
  std::function<void()> over_share_;
  std::function<void()> scattered_;
  std::function<void()> generation_ended_;
  SlabZone zone_;
  SlotTable slots_;
  std::optional<DuplicateHints> hints_;  // none: equal pages are stored each for itself
  std::atomic<bool> deduplicates_ = true;
  std::vector<std::unique_ptr<SwapArea>> areas_;
  Gauge stored_;  // pages
  Gauge shared_;  // of them: beyond the first of each slot
  Counter deduplicated_;
  Gauge same_filled_;
  Gauge kept_;          // copies that have not been dropped
  Gauge kept_in_pool_;  // of them
  Gauge in_pool_;
  Gauge stored_bytes_;
  mutable Counter errors_;
  Counter recompressed_;
  Counter recompression_saved_;  // bytes
  mutable ZstdDecompressors decompressors_;

  // Generations: one ends when a quarter of the pages in the pool have been stored since it began.
  std::atomic<uint64_t> stored_in_generation_ = 0;
  std::atomic<uint8_t> generation_ = 0;
  std::array<std::atomic<int64_t>, 256> generation_ended_at_ = {};  // ns of the clock; 0: not yet

  std::atomic<uint32_t> freed_ = 0;  // since somebody looked whether the zone is scattered
  absl::Mutex compact_lock_;         // one compaction at a time; taken before all others here but write_lock_

  mutable absl::Mutex recompress_lock_;  // one recompression at a time; taken before all others here
  uint32_t recompress_hand_ ABSL_GUARDED_BY(recompress_lock_) = 0;          // a cluster of slots
  std::unique_ptr<ZstdCompressor> zstd_ ABSL_GUARDED_BY(recompress_lock_);  // null until it is needed

  absl::Mutex write_lock_;                          // one writer at a time; taken before all others here
  uint32_t hand_ ABSL_GUARDED_BY(write_lock_) = 0;  // a cluster of slots
  uint8_t collected_in_ ABSL_GUARDED_BY(write_lock_) = 0;
  uint8_t least_age_ ABSL_GUARDED_BY(write_lock_) = kOldest;  // that is looked for in this generation
  AlignedBytes buffer_ ABSL_GUARDED_BY(write_lock_);
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_SWAP_SPACE_H_
