// An array in the pool: bookkeeping that reclaim needs in order to work, charged to the budget as what it describes.
//
//   | record 0 | record 1 | ...            capacity |   populated, free |      holes, up to the most there may be
//   +-----------------------------------------------+-------------------+- - - - - - - - - - - - - - - - - - - - -
//
// Its pages lie one after the other in the pool's file (Pool::AddTable): records have one address for good, and are
// found without a lock and without an indirection. Pages are populated as the table grows, with memory that reclaim
// alone may use, and given back when the table goes. It never shrinks before: whoever walks the records takes no lock
// that would tell him when a page goes, and reading a hole would populate it again, uncharged.
#ifndef QUIRE_GUEST_FRAMES_POOL_TABLE_H_
#define QUIRE_GUEST_FRAMES_POOL_TABLE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>

#include "base/units.h"
#include "guest/frames/pool.h"

namespace quire {

// What a table's user counts.
struct TableStatistics {
  uint64_t used = 0;  // records
  uint64_t free = 0;
  uint64_t requests = 0;  // for one
  uint64_t failures = 0;  // of them: for want of memory
  PageCount frames = {};
};

// The pages of a table. Thread safe, but for Populate, which is for one thread at a time.
class PoolTablePages {
 public:
  // At most `most` of them. The pool outlives them.
  PoolTablePages(Pool& pool, PageCount most);
  ~PoolTablePages();
  PoolTablePages(const PoolTablePages&) = delete;
  PoolTablePages& operator=(const PoolTablePages&) = delete;

  std::byte* data() const { return data_; }
  // Has the first `bytes` bytes be there, zeros where they were not. False: there is no memory, or no more room.
  bool Populate(uint64_t bytes);
  PageCount populated() const { return PageCount(populated_.load(std::memory_order_relaxed)); }
  PageCount most() const { return range_.size(); }

 private:
  Pool& pool_;
  const FrameRange range_;
  std::byte* const data_;
  std::atomic<uint64_t> populated_ = 0;
};

// Grow() by one thread at a time; operator[] by any, for indexes that it learnt from whoever grew the table.
template <class Record>
class PoolTable {
 public:
  static_assert(std::is_trivially_destructible_v<Record> && kPageSize % alignof(Record) == 0);
  static constexpr uint32_t kPerPage = kPageSize / sizeof(Record);

  // With room for `most` records at the most.
  PoolTable(Pool& pool, uint64_t most) : pages_(pool, PageCount::Ceil(ByteCount::Bytes(most * sizeof(Record)))) {}

  Record& operator[](uint32_t index) { return records()[index]; }
  const Record& operator[](uint32_t index) const { return records()[index]; }

  // Adds `count` records, value-initialized. False, and nothing added: there is no memory, or no more room.
  bool Grow(uint32_t count) {
    const uint32_t first = capacity();
    if (count > UINT32_MAX - first || !pages_.Populate((uint64_t{first} + count) * sizeof(Record))) return false;
    for (uint32_t i = 0; i < count; ++i) new (&records()[first + i]) Record();
    capacity_.store(first + count, std::memory_order_release);
    return true;
  }
  uint32_t capacity() const { return capacity_.load(std::memory_order_acquire); }
  PageCount frames() const { return pages_.populated(); }

 private:
  Record* records() const { return reinterpret_cast<Record*>(pages_.data()); }

  PoolTablePages pages_;
  std::atomic<uint32_t> capacity_ = 0;
};

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_POOL_TABLE_H_
