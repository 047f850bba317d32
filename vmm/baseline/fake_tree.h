// A made-up host: a directory with the files that are read and written to.
#ifndef QUIRE_VMM_BASELINE_FAKE_TREE_H_
#define QUIRE_VMM_BASELINE_FAKE_TREE_H_

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "vmm/baseline/setting.h"

namespace quire {

// Goes with all files in the process that has made it, but not in its children.
class FakeTree {
 public:
  FakeTree() {
    const char* const directory = std::getenv("TEST_TMPDIR");
    root_ = absl::StrCat(directory == nullptr ? "/tmp" : directory, "/host-", maker_, "-", next_++);
    std::filesystem::create_directories(root_);
  }
  FakeTree(const FakeTree&) = delete;
  FakeTree& operator=(const FakeTree&) = delete;
  ~FakeTree() {
    if (getpid() == maker_) std::filesystem::remove_all(root_);
  }

  const std::string& root() const { return root_; }
  std::string Path(absl::string_view path) const { return absl::StrCat(root_, path); }
  void Put(absl::string_view path, absl::string_view text) const {
    MakeFolder(std::filesystem::path(std::string(path)).parent_path().native());
    std::ofstream(Path(path)) << text << "\n";
  }
  void MakeFolder(absl::string_view path) const { std::filesystem::create_directories(Path(path)); }
  std::string Get(absl::string_view path) const { return ReadSetting(Path(path)).value_or("(no such file)"); }
  bool Has(absl::string_view path) const { return std::filesystem::exists(Path(path)); }

  // What every setting is, by its path, and which folders there are.
  std::map<std::string, std::string> Settings() const {
    std::map<std::string, std::string> all;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root_)) {
      const std::string path = entry.path().native().substr(root_.size());
      all[path] = entry.is_regular_file() ? ChosenOf(Get(path)) : "(a folder)";
    }
    return all;
  }

 private:
  static inline int next_ = 0;
  const pid_t maker_ = getpid();
  std::string root_;
};

}  // namespace quire

#endif  // QUIRE_VMM_BASELINE_FAKE_TREE_H_
