#include "vmm/baseline/host_memory.h"

#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "absl/status/statusor.h"
#include "base/mapping.h"

namespace quire {

namespace {

// Some is left to others meanwhile.
ByteCount FreeMemory() {
  struct sysinfo info = {};
  if (sysinfo(&info) != 0) return ByteCount();
  return ByteCount::Bytes(uint64_t{info.freeram} * info.mem_unit / 8 * 7);
}

}  // namespace

absl::Status TouchHostMemory(ByteCount wanted) {
  const ByteCount size = PageCount(std::min(wanted, FreeMemory()).in_bytes() / kPageSize).bytes();
  if (size == ByteCount()) return absl::OkStatus();
  absl::StatusOr<Mapping> memory = Mapping::MapAligned(size, ByteCount::Bytes(kBlockSize), PROT_READ | PROT_WRITE,
                                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (!memory.ok()) return memory.status();
  madvise(memory->data(), size.in_bytes(), MADV_HUGEPAGE);
  std::memset(memory->data(), 0xa5, size.in_bytes());
  return absl::OkStatus();
}

}  // namespace quire
