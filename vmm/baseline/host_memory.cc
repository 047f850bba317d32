#include "vmm/baseline/host_memory.h"

#include <sys/mman.h>

#include <cstring>

#include "absl/status/statusor.h"
#include "base/mapping.h"

namespace quire {

absl::Status TouchHostMemory(ByteCount size) {
  absl::StatusOr<Mapping> memory = Mapping::MapAligned(size, ByteCount::Bytes(kBlockSize), PROT_READ | PROT_WRITE,
                                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (!memory.ok()) return memory.status();
  madvise(memory->data(), size.in_bytes(), MADV_HUGEPAGE);
  std::memset(memory->data(), 0xa5, size.in_bytes());
  return absl::OkStatus();
}

}  // namespace quire
