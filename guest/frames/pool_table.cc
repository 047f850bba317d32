#include "guest/frames/pool_table.h"

namespace quire {

PoolTablePages::PoolTablePages(Pool& pool, PageCount most)
    : pool_(pool), range_(pool.AddTable(most)), data_(pool.Frame(range_.begin())) {}

PoolTablePages::~PoolTablePages() {
  if (populated() > PageCount()) pool_.ReleaseReserved(FrameRange(range_.begin(), populated()));
  pool_.RemoveTable(range_);
}

bool PoolTablePages::Populate(uint64_t bytes) {
  const PageCount wanted = PageCount::Ceil(ByteCount::Bytes(bytes));
  if (wanted <= populated()) return true;
  if (wanted > most()) return false;
  const FrameRange missing(range_.begin() + populated(), wanted - populated());
  if (!pool_.PopulateTable(missing).ok()) return false;
  populated_.store(wanted.in_pages(), std::memory_order_relaxed);
  return true;
}

}  // namespace quire
