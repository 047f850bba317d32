// A table of records that grows and never moves: records keep their address, and readers need no lock.
//
// Memory comes in chunks of ordinary memory (not the pool: growing it can never wait for reclaim). Records are
// value-initialized.
#ifndef QUIRE_GUEST_SWAP_CHUNKED_TABLE_H_
#define QUIRE_GUEST_SWAP_CHUNKED_TABLE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "base/check.h"
#include "base/units.h"

namespace quire {

// Grow() by one thread at a time; operator[] by any, for indexes that it learnt from whoever grew the table.
template <class Record, uint32_t kChunkRecords = 4096, uint32_t kMaxChunks = 1 << 16>
class ChunkedTable {
 public:
  ChunkedTable() : chunks_(std::make_unique<Chunk[]>(kMaxChunks)) {}

  Record& operator[](uint32_t index) { return chunks_[index / kChunkRecords][index % kChunkRecords]; }
  const Record& operator[](uint32_t index) const { return chunks_[index / kChunkRecords][index % kChunkRecords]; }

  // Adds a chunk's worth of records; returns the first one's index.
  uint32_t Grow() {
    const uint32_t first = capacity();
    QUIRE_CHECK(first / kChunkRecords < kMaxChunks);
    chunks_[first / kChunkRecords] = std::make_unique<Record[]>(kChunkRecords);
    capacity_.store(first + kChunkRecords, std::memory_order_release);
    return first;
  }
  uint32_t capacity() const { return capacity_.load(std::memory_order_acquire); }
  static constexpr uint64_t kMaxRecords = uint64_t{kChunkRecords} * kMaxChunks;
  static constexpr uint32_t chunk_records() { return kChunkRecords; }

  ByteCount metadata() const { return ByteCount::Bytes(uint64_t{capacity()} * sizeof(Record)); }

 private:
  using Chunk = std::unique_ptr<Record[]>;
  const std::unique_ptr<Chunk[]> chunks_;
  std::atomic<uint32_t> capacity_ = 0;
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_CHUNKED_TABLE_H_
