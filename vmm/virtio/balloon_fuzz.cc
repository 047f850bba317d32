// A driver that sends a balloon anything: bytes become memory, chains of parts of it, and accesses of the
// configuration.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "mmu/fake_device_memory.h"
#include "vmm/virtio/balloon.h"
#include "vmm/virtio/fuzzed_driver.h"
#include "vmm/virtio/one_queue_driver.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quire;
  FuzzedDriver fuzzed(absl::MakeConstSpan(data, size));
  FakeDeviceMemory memory(FuzzedDriver::kMemory);
  Balloon balloon(memory, {}, [] { return absl::UnixEpoch(); });
  std::deque<OneQueueDriver> drivers;
  for (uint64_t queue = 0; queue < 5; ++queue) drivers.emplace_back(memory, Gpa(queue * kPageSize));
  balloon.SetFeatures(fuzzed.Next());
  for (int chains = 0; chains < 40 && !fuzzed.empty(); ++chains) {
    const uint8_t action = fuzzed.Next();
    const int queue = action % 5;
    if (action >= 250) balloon.RequestHints();
    if (action >= 245) balloon.RequestStatistics();
    if (action >= 240) {
      const std::vector<std::byte> bytes(fuzzed.Next() % 20, std::byte{fuzzed.Next()});
      balloon.WriteConfig(fuzzed.Next() % 20, bytes);
    }
    fuzzed.Fill(memory, /*from=*/5 * kPageSize);
    drivers[queue].Offer(fuzzed.Parts());
    if (!balloon.Process(queue, drivers[queue].queue()).ok()) return 0;  // the device has stopped
  }
  QUIRE_CHECK(memory.wired() == 0);
  return 0;
}
