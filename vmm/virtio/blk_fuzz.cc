// A driver that asks a disk for anything: bytes become memory and chains of parts of it. The disk stays as large as it
// is, each request is given back, and nothing stays wired.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "mmu/fake_device_memory.h"
#include "vmm/virtio/blk.h"
#include "vmm/virtio/disk_image.h"
#include "vmm/virtio/fuzzed_driver.h"
#include "vmm/virtio/one_queue_driver.h"

namespace quire {
namespace {

constexpr off_t kDisk = 64 << 10;

// One file for all inputs, in memory.
const std::string& DiskPath() {
  static const std::string path = [] {
    const int fd = memfd_create("disk", MFD_CLOEXEC);
    QUIRE_CHECK(fd >= 0 && ftruncate(fd, kDisk) == 0);
    return absl::StrCat("/proc/self/fd/", fd);
  }();
  return path;
}

}  // namespace
}  // namespace quire

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quire;
  FuzzedDriver fuzzed(absl::MakeConstSpan(data, size));
  FakeDeviceMemory memory(FuzzedDriver::kMemory);
  const auto mode = fuzzed.Next() % 4 == 0 ? DiskImage::Mode::kReadOnly : DiskImage::Mode::kReadWrite;
  VirtioBlk disk(DiskImage::Open(DiskPath(), mode).value(), memory);
  OneQueueDriver driver(memory, Gpa(0));
  while (!fuzzed.empty()) {
    fuzzed.Fill(memory, /*from=*/kPageSize);
    driver.Offer(fuzzed.Parts());
    if (!disk.Process(0, driver.queue()).ok()) break;  // the device has stopped
    QUIRE_CHECK(driver.TakeUsed().size() == 1);
  }
  struct stat file;
  QUIRE_CHECK(stat(DiskPath().c_str(), &file) == 0 && file.st_size == kDisk);
  QUIRE_CHECK(memory.wired() == 0);
  return 0;
}
