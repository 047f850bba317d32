// The console of a guest in another process, which writes it to a file.
#ifndef QUIRE_VMM_LIBVIRT_QEMU_CONSOLE_TAIL_H_
#define QUIRE_VMM_LIBVIRT_QEMU_CONSOLE_TAIL_H_

#include <sys/types.h>

#include <string>
#include <utility>

#include "vmm/console_report.h"

namespace quire {

// Not thread safe.
class ConsoleTail {
 public:
  // The file need not be there yet.
  explicit ConsoleTail(std::string path) : path_(std::move(path)) {}

  // Reads what has been written since, kMostAtOnce bytes at most. A file that has become another one is read from its
  // beginning: virtlogd begins a new one every 2 MiB, and what the old one got last may be missed.
  void Read();
  static constexpr size_t kMostAtOnce = size_t{4} << 20;

  // What the guest has reported so far.
  const ConsoleReport& report() const { return report_; }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
  ino_t file_ = 0;
  off_t read_ = 0;  // of it
  ConsoleReport report_;
};

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_QEMU_CONSOLE_TAIL_H_
