// Small breakages of text files, for tests of what reads them.
#ifndef QUIRE_BASE_TESTING_BROKEN_FILES_H_
#define QUIRE_BASE_TESTING_BROKEN_FILES_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

namespace quire {

// What stands in the files of a directory, those with an extension (".xml") or all; in no order.
inline std::vector<std::string> FilesIn(const std::string& directory, const std::string& extension = "") {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (!entry.is_regular_file() || (!extension.empty() && entry.path().extension() != extension)) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return files;
}

// The file with one to three breakages: something erased, repeated elsewhere, or replaced by one of `bytes`, which mean
// something in files of this kind. `file` is not empty.
inline std::string Broken(std::string file, const std::string& bytes, std::mt19937_64& random) {
  for (uint64_t left = random() % 3 + 1; left > 0 && !file.empty(); --left) {
    const size_t at = random() % file.size();
    switch (random() % 4) {
      case 0:
        file.erase(at, random() % 20);
        break;
      case 1:
        file.insert(at, 1, bytes[random() % bytes.size()]);
        break;
      case 2:
        file[at] = bytes[random() % bytes.size()];
        break;
      default:
        file.insert(at, file.substr(random() % file.size(), random() % 60));
    }
  }
  return file;
}

}  // namespace quire

#endif  // QUIRE_BASE_TESTING_BROKEN_FILES_H_
