// The warmest swap store: pages compressed with LZ4, kept in the pool.
//
// A page of one repeated 8-byte word is stored as that word. Every page carries a checksum of its content (XXH3), kept
// apart from the compressed bytes, so that damage is found whichever side it happens to.
#ifndef QUIRE_GUEST_SWAP_COMPRESSED_STORE_H_
#define QUIRE_GUEST_SWAP_COMPRESSED_STORE_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/counters.h"
#include "base/units.h"
#include "guest/frames/compaction.h"
#include "guest/frames/frame_table.h"
#include "guest/swap/chunked_table.h"
#include "guest/swap/slab_zone.h"
#include "guest/swap/swap_slot.h"

namespace quire {

enum class StoreOutcome : uint8_t {
  kStored,
  kStoredAsIs,      // it does not compress, and takes a whole page of the pool
  kZero,            // nothing to store: the page reads as zero
  kIncompressible,  // it would save less than a tenth of a page
  kNoRoom,          // the pool has no memory left for it
};

// What becomes of a page that does not compress.
enum class Incompressible : uint8_t { kRefuse, kStoreAsIs };

struct StoreResult {
  StoreOutcome outcome;
  SwapSlot slot;  // if kStored or kStoredAsIs
};

// What compressing one page takes; a thread keeps one for all its pages.
class CompressionScratch {
 public:
  CompressionScratch();
  ~CompressionScratch();

 private:
  friend class CompressedStore;
  std::unique_ptr<std::byte[]> state_;
  std::unique_ptr<std::byte[]> output_;
};

// Thread safe. A slot has one owner, who neither loads nor frees it from two threads at once.
class CompressedStore {
 public:
  explicit CompressedStore(Pool& pool) : zone_(pool) {}

  // Stores the 4 KiB at `page`, which nobody writes meanwhile. Takes pool memory with Reserve::kReclaim; never waits.
  StoreResult Store(const std::byte* page, CompressionScratch& scratch,
                    Incompressible incompressible = Incompressible::kRefuse);
  // Writes the stored content to the 4 KiB at `page`; the slot stays. DataLoss: what is stored is damaged.
  absl::Status Load(SwapSlot slot, std::byte* page) const;
  void Free(SwapSlot slot);
  // As FrameMigrator::Migrate, for a frame of the store. Stored pages stay readable meanwhile.
  FrameMigrator::Answer Migrate(FrameNumber from, FrameDescriptor owner, FrameNumber to) {
    return zone_.Migrate(from, owner, to);
  }

  struct Statistics {
    PageCount stored;        // pages, those of one word included
    PageCount same_filled;   // pages of one word
    ByteCount stored_bytes;  // bytes that the others take, compressed or not
    PageCount held;          // frames that hold them
    uint64_t errors;         // damaged pages found
  };
  Statistics statistics() const;
  ByteCount metadata() const { return slots_.metadata() + zone_.metadata(); }
  bool IsLive(SwapSlot slot) const;
  absl::Status Check() { return zone_.Check(); }

  // Inverts one stored byte, so that tests can see damage found. The slot holds a compressed page.
  void DamageForTesting(SwapSlot slot);

 private:
  enum class Kind : uint8_t { kFree, kSameFilled, kCompressed };

  // 16 bytes a stored page.
  struct Record {
    uint64_t location = 0;  // kCompressed: slab, and object << 32; kSameFilled: the word; kFree: the next free slot
    uint32_t checksum = 0;
    uint16_t length = 0;  // of the compressed bytes; kPageSize: the page as it is
    Kind kind = Kind::kFree;
  };
  static_assert(sizeof(Record) == 16);
  static constexpr uint32_t kNone = ~uint32_t{0};

  static SlabObject ObjectOf(const Record& record) {
    return {.slab = static_cast<uint32_t>(record.location), .index = static_cast<uint16_t>(record.location >> 32)};
  }
  StoreResult StoreBytes(const std::byte* page, absl::Span<const std::byte> bytes, StoreOutcome outcome);
  SwapSlot PutRecord(const Record& record);

  SlabZone zone_;
  ChunkedTable<Record> slots_;
  absl::Mutex lock_;
  uint32_t free_slots_ ABSL_GUARDED_BY(lock_) = kNone;
  Gauge stored_;
  Gauge same_filled_;
  Gauge stored_bytes_;
  mutable Counter errors_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_COMPRESSED_STORE_H_
