#include "vmm/boot/test_initramfs.h"

#include <vector>

#include "vmm/boot/cpio.h"
#include "vmm/boot/test_init.h"

namespace quire {
namespace {

std::vector<std::byte> Build() {
  constexpr uint32_t kConsoleMajor = 5, kConsoleMinor = 1;
  CpioWriter archive;
  for (const char* folder : {"dev", "proc", "sys"}) archive.AddFolder(folder);
  archive.AddCharacterDevice("dev/console", kConsoleMajor, kConsoleMinor, 0600);
  archive.AddFile("init", TestInitProgram(), 0755);
  return std::move(archive).Finish();
}

}  // namespace

absl::Span<const std::byte> TestInitramfs() {
  static const std::vector<std::byte>* const archive = new std::vector<std::byte>(Build());
  return *archive;
}

}  // namespace quire
