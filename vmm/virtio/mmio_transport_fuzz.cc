// Any sequence of accesses to a device's registers and to the memory that its queues lie in: every access comes back,
// and afterwards the device serves a driver that means well.
#include <linux/virtio_mmio.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/units.h"
#include "mmu/fake_device_memory.h"
#include "vmm/boot/pc_layout.h"
#include "vmm/virtio/mmio_transport.h"
#include "vmm/virtio/rng.h"
#include "vmm/virtio/test_driver.h"
#include "vmm/virtio/virtio_console.h"
#include "vmm/virtio/virtio_device.h"

namespace quire {
namespace {

constexpr ByteCount kMemory = ByteCount::KiB(128);
constexpr Gpa kBuffer(0x10000);

// The input, taken piece by piece; zeros after its end.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}
  bool empty() const { return rest_.empty(); }
  absl::string_view TakeBytes(size_t most) {
    const absl::string_view taken = rest_.substr(0, most);
    rest_.remove_prefix(taken.size());
    return taken;
  }
  template <class T>
  T Take() {
    const absl::string_view bytes = TakeBytes(sizeof(T));
    T value = 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }

 private:
  absl::string_view rest_;
};

void Access(Input& input, MmioTransport& transport) {
  std::array<std::byte, 8> bytes = {};
  const uint8_t kind = input.Take<uint8_t>();
  const auto span = absl::MakeSpan(bytes).first(size_t{1} << (kind & 3));
  const uint64_t offset = input.Take<uint16_t>() % kVirtioMmioSize.in_bytes();
  if ((kind & 4) != 0) return transport.Read(offset, span);
  const absl::string_view value = input.TakeBytes(span.size());
  std::memcpy(bytes.data(), value.data(), value.size());
  transport.Write(offset, span);
}

void Poke(Input& input, FakeDeviceMemory& memory) {
  const uint64_t at = input.Take<uint16_t>();
  StoreString(memory, Gpa(at), input.TakeBytes(input.Take<uint8_t>()));
}

void Step(Input& input, TestDriver& driver, FakeDeviceMemory& memory, VirtioConsole* console) {
  switch (input.Take<uint8_t>() % 8) {
    case 0:
      return Access(input, driver.transport());
    case 1:
      return driver.Write(input.Take<uint8_t>() % 64 * 4, input.Take<uint32_t>());
    case 2:
      return driver.Write(input.Take<uint8_t>() % 64 * 4, input.Take<uint8_t>());
    case 3:
      return Poke(input, memory);
    case 4:
      if (console != nullptr) console->Receive(input.TakeBytes(input.Take<uint8_t>()));
      return;
    case 5:
      driver.Start(kVersion1 | (input.Take<uint8_t>() % 2 == 0 ? kIndirect : kEventIndex));
      return;
    case 6:
      return driver.Notify(input.Take<uint8_t>() % 2);
    default:
      driver.Settle();
  }
}

void CheckService(TestDriver& driver, VirtioConsole* console) {
  QUIRE_CHECK(driver.Start());
  if (console != nullptr) console->Receive("x");
  driver.queue(0).Add({{.address = kBuffer, .size = 1, .writable = true}});
  driver.Notify(0);
  driver.Settle();
  QUIRE_CHECK(driver.queue(0).TakeUsed()->length == 1);
}

}  // namespace
}  // namespace quire

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  quire::Input input(data, size);
  quire::FakeDeviceMemory memory(quire::kMemory);
  quire::VirtioConsole* console = nullptr;
  std::unique_ptr<quire::VirtioDevice> device = std::make_unique<quire::VirtioRng>();
  if (input.Take<uint8_t>() % 2 != 0) {
    auto made = std::make_unique<quire::VirtioConsole>([](absl::string_view) {});
    console = made.get();
    device = std::move(made);
  }
  quire::TestDriver driver(std::move(device), memory, quire::Gpa(0));
  while (!input.empty()) quire::Step(input, driver, memory, console);
  quire::CheckService(driver, console);
  return 0;
}
